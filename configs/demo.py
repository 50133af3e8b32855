"""Moving handwritten digits from text, in a quarter of the steps of `configs/digits.py`: what `make demo` trains.

It learns from clips alone, none of which turn, in some seven minutes on two old CPU cores.
A canvas makes it remember shapes after fewer steps.
Launch: `python -m launch.train --config configs/demo.py --workdir runs/demo`
"""

from nova_jax.configs import digits


def get_config():
  config = digits.get_config()
  clips = config.train.stages[-1]
  clips.fraction = 1.0
  config.train.stages = (clips,)
  config.model.canvas, config.train.steps = True, 900
  config.data.num_frames, config.data.mid_clip_fraction, config.data.turning_fraction = 11, 0.3, 0.0
  config.sample.guidance_scale = 1.25  # What was learned in few steps keeps shapes better with less of it.
  return config
