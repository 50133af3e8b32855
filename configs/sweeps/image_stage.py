"""Images first, or videos from the start: two trainings of the digits model of equal cost.

Launch: `python -m launch.sweep --config configs/sweeps/image_stage.py --output runs/image_stage --runs runs/trainings`
"""

from configs.ablation import get_config
from nova_jax.sweeps.plan import Bars, Sweep

EQUAL_STEPS = 1166  # On clips alone; they cost what the ablation's 1300 do, a quarter of which are on single frames.


def get_sweep():
  image, video = (stage.to_dict() for stage in get_config().train.stages)
  return Sweep(
      title="Image stage",
      about="A first quarter of the steps on single frames, or all on clips, of which there are fewer then: both cost "
            "the same number of operations.",
      config="configs/ablation.py",
      points=[
          {"config.train.stages": (image, video), "guidance_scale": 1.5},
          {"config.train.stages": (video | {"share": 1.0},), "config.train.steps": EQUAL_STEPS, "guidance_scale": 1.5}],
      plots=(Bars("config.train.stages"),))
