"""Clips from the start, or first frames before them, on two digits that cross: two trainings of equal cost.

Launch: `python -m launch.sweep --config configs/sweeps/two_digits_image_stage.py --output runs/two_image_stage \
    --runs runs/trainings --results docs/ablations/two_digits`
"""

from nova_jax.configs import two_digits_ablation
from nova_jax.tools.sweeps.plan import Bars, Sweep

EQUAL_STEPS = 1637  # On clips alone they cost what the 1,600 steps do of which 352 are on first frames.


def get_sweep():
  config = two_digits_ablation.get_config()
  images, clips = (stage.to_dict() for stage in config.train.stages)
  return Sweep(
      title="Image stage, two digits",
      about="All steps on clips, or 22 in a hundred of them on first frames alone: both cost the same number of "
            "operations.",
      config="configs/two_digits_ablation.py",
      task="two_digits",
      num_prompts=240,
      points=[
          {"config.train.stages": (clips | {"fraction": 1.0},), "config.train.steps": EQUAL_STEPS},
          {"config.train.stages": (images, clips)}],
      plots=(Bars("config.train.stages"),))
