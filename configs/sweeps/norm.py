"""Norms behind attention and MLP, or before: two trainings of the digits model.

Launch: `python -m launch.sweep --config configs/sweeps/norm.py --output runs/norm --runs runs/trainings`
"""

from nova_jax.tools.sweeps.plan import Bars, Sweep, grid


def get_sweep():
  return Sweep(
      title="Post-norm and pre-norm",
      about="NOVA normalises what attention and MLP return, most others what they see. What is gained is stability of "
            "deep models in half precision; seven blocks in float32 show whether either learns faster, no more.",
      config="configs/ablation.py",
      points=grid(config__model__norm=("post", "pre"), guidance_scale=(1.5,)),
      plots=(Bars("config.model.norm"),))
