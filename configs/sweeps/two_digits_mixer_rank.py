"""Scaling & shift on two digits that cross: none, a low rank or full rank, three trainings each.

Launch: `python -m launch.sweep --config configs/sweeps/two_digits_mixer_rank.py --output runs/two_mixer_rank \
    --runs runs/trainings --results docs/ablations/two_digits`
"""

from nova_jax.tools.sweeps.plan import Bars, Sweep, grid


def get_sweep():
  return Sweep(
      title="Rank of scaling & shift, two digits",
      about="Without the layer, at rank 8 and at full rank (-1), with three seeds each. All that a later frame learns "
            "of earlier ones passes through the layer.",
      config="configs/two_digits_ablation.py",
      task="two_digits",
      num_prompts=240,
      points=grid(config__model__mixer_rank=(None, 8, -1), config__seed=(0, 1, 2)),
      plots=(Bars("config.model.mixer_rank", over="config.seed"),))
