"""Temporal autoregression or none, on two digits that cross: two times three trainings.

Launch: `python -m launch.sweep --config configs/sweeps/two_digits_history.py --output runs/two_history \
    --runs runs/trainings --results docs/ablations/two_digits`
"""

from nova_jax.tools.sweeps.plan import Bars, Sweep, grid


def get_sweep():
  return Sweep(
      title="Temporal autoregression, two digits",
      about="Frames see all earlier ones, or none, with three seeds each. A hidden digit can only be remembered.",
      config="configs/two_digits_ablation.py",
      task="two_digits",
      num_prompts=240,
      points=grid(config__model__history=(True, False), config__seed=(0, 1, 2)),
      plots=(Bars("config.model.history", over="config.seed"),))
