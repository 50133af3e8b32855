"""Temporal autoregression or none: two trainings of the digits model.

Launch: `python -m launch.sweep --config configs/sweeps/history.py --output runs/history --runs runs/trainings`
"""

from nova_jax.tools.sweeps.plan import Bars, Sweep, grid


def get_sweep():
  return Sweep(
      title="Temporal autoregression",
      about="Frames see all earlier ones, or none: then each is made independently, by its time and the text. Digit "
            "and direction can be right without history, since the caption tells both; that it stays the same "
            "handwritten digit can't be, and retrieval shows it.",
      config="configs/ablation.py",
      points=grid(config__model__history=(True, False), guidance_scale=(1.5,)),
      plots=(Bars("config.model.history"),))
