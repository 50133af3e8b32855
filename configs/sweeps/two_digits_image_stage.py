"""Clips from the start, or single frames first, on two digits that cross: two trainings of equal cost.

Launch: `python -m launch.sweep --config configs/sweeps/two_digits_image_stage.py --output runs/two_image_stage \
    --runs runs/trainings --results docs/ablations/two_digits`
"""

from nova_jax.configs import two_digits_ablation
from nova_jax.tools.sweeps.plan import Bars, Sweep

SHARES = 0.25, 0.75  # Of steps on single frames and on clips.
PICTURES = 64  # In a batch: half as many frames as a batch of clips has.
EQUAL_STEPS = 899  # With a quarter on single frames, which cost less, they cost what the 800 steps on clips do.


def get_sweep():
  config = two_digits_ablation.get_config()
  (clips,) = (stage.to_dict() for stage in config.train.stages)
  pictures = clips | {"name": "image", "batch_size": PICTURES, "num_frames": 1, "fraction": SHARES[0]}
  return Sweep(
      title="Image stage, two digits",
      about="All steps on clips, or a first quarter of them on single frames, and more steps then: both cost the same "
            "number of operations.",
      config="configs/two_digits_ablation.py",
      task="two_digits",
      points=[
          {"config.train.stages": (clips,)},
          {"config.train.stages": (pictures, clips | {"fraction": SHARES[1]}), "config.train.steps": EQUAL_STEPS}],
      plots=(Bars("config.train.stages"),))
