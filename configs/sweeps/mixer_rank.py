"""Rank of scaling & shift: five trainings of the digits model.

Launch: `python -m launch.sweep --config configs/sweeps/mixer_rank.py --output runs/mixer_rank --runs runs/trainings`
"""

from nova_jax.tools.sweeps.plan import Bars, Sweep, grid


def get_sweep():
  return Sweep(
      title="Rank of scaling & shift",
      about="Without the layer, at ranks 2, 4 and 8, and at full rank (-1). All that a later frame learns of earlier "
            "ones passes through the layer. Clips of four frames hardly drift: its use for long videos is not seen.",
      config="configs/ablation.py",
      points=grid(config__model__mixer_rank=(None, 2, 4, 8, -1), guidance_scale=(1.5,)),
      plots=(Bars("config.model.mixer_rank"),))
