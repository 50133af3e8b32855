"""Norms behind attention and MLP, or before, on two digits that cross: two trainings.

Launch: `python -m launch.sweep --config configs/sweeps/two_digits_norm.py --output runs/two_norm \
    --runs runs/trainings --results docs/ablations/two_digits`
"""

from nova_jax.tools.sweeps.plan import Bars, Sweep, grid


def get_sweep():
  return Sweep(
      title="Post-norm and pre-norm, two digits",
      about="NOVA normalises what attention and MLP return, most others what they see. Each was trained once.",
      config="configs/two_digits_ablation.py",
      task="two_digits",
      num_prompts=240,
      points=grid(config__model__norm=("post", "pre")),
      plots=(Bars("config.model.norm"),))
