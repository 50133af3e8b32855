"""How much of a difference is chance: three trainings of the digits model that differ in their seed.

Launch: `python -m launch.sweep --config configs/sweeps/seed.py --output runs/seed --runs runs/trainings`
"""

from nova_jax.tools.sweeps.plan import Bars, Sweep, grid


def get_sweep():
  return Sweep(
      title="Seeds",
      about="The same training from other random weights, batches and noise. Differences between settings that are not "
            "larger than these mean nothing.",
      config="configs/ablation.py",
      points=grid(config__seed=(0, 1, 2), guidance_scale=(1.5,)),
      plots=(Bars("config.seed"),))
