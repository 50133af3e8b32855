"""Images first, or videos from the start, two trainings of the digits model.

Launch: `python -m launch.sweep --config configs/sweeps/image_stage.py --output runs/image_stage`
"""

from nova_jax.sweeps.plan import Plot, Sweep

IMAGE = {"name": "image", "share": 0.25, "batch_size": 64, "num_frames": 1}
VIDEO = {"name": "video", "share": 0.75, "batch_size": 32, "num_frames": 4}


def get_sweep():
  return Sweep(
      title="Image stage",
      about="The same number of steps, with a first quarter on single frames or all on clips. A step on clips costs "
            "more, so that training without the image stage is the longer one.",
      points=[
          {"config.train.stages": (IMAGE, VIDEO)},
          {"config.train.stages": (VIDEO | {"share": 1.0},)}],
      plots=tuple(Plot("config.train.stages", y) for y in ("digit", "retrieval@last")))
