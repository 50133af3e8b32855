"""Clips from the start, or images first: two trainings of the digits model of equal cost.

Launch: `python -m launch.sweep --config configs/sweeps/image_stage.py --output runs/image_stage --runs runs/trainings`
"""

from nova_jax.configs import ablation, digits
from nova_jax.tools.sweeps.plan import Bars, Sweep

FRACTIONS = 0.25, 0.75  # Of single frames and of clips.
EQUAL_STEPS = 1300  # With a quarter on single frames, which cost less, they cost what the ablation's steps on clips do.


def get_sweep():
  with_images, without = (
      tuple(stage.to_dict() for stage in config.get_config().train.stages) for config in (digits, ablation))
  with_images = tuple(stage | {"fraction": fraction} for stage, fraction in zip(with_images, FRACTIONS, strict=True))
  return Sweep(
      title="Image stage",
      about="All steps on clips, or a first quarter of them on single frames, and more steps then: both cost the same "
            "number of operations.",
      config="configs/ablation.py",
      points=[
          {"config.train.stages": without, "guidance_scale": 1.5},
          {"config.train.stages": with_images, "config.train.steps": EQUAL_STEPS, "guidance_scale": 1.5}],
      plots=(Bars("config.train.stages"),))
