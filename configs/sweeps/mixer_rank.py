"""Rank of scaling & shift: five trainings of the digits model.

Launch: `python -m launch.sweep --config configs/sweeps/mixer_rank.py --output runs/mixer_rank --runs runs/trainings`
"""

from nova_jax.sweeps.plan import Bars, Sweep, grid


def get_sweep():
  return Sweep(
      title="Rank of scaling & shift",
      about="Without the layer, at ranks 2, 4 and 8, and at full rank (-1). Clips of four frames hardly drift: what "
            "the layer does for long videos is not to be seen here.",
      config="configs/ablation.py",
      points=grid(config__model__mixer_rank=(None, 2, 4, 8, -1), guidance_scale=(1.5,)),
      plots=(Bars("config.model.mixer_rank"),))
