"""Guidance scale against scores, with averaged weights and with the last ones: 10 points.

Launch: `python -m launch.sweep --config configs/sweeps/guidance.py --checkpoint runs/digits --output runs/guidance`
"""

from nova_jax.tools.sweeps.plan import Plot, Sweep, grid


def get_sweep():
  return Sweep(
      title="Guidance scale",
      about="How strongly a trained digits model is guided by its caption, and by which weights. Scores are shares of "
            "400 clips. Digits are easy to name and to tell apart, so that little guidance is enough here; the best "
            "scale of a model of photographs is another one.",
      points=grid(weights=("ema", "params"), guidance_scale=(1.0, 1.5, 2.5, 4.0, 7.0)),
      plots=tuple(Plot("guidance_scale", y, line="weights") for y in ("digit", "retrieval@last")))
