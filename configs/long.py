"""Moving digits that last: a model of clips of four frames that goes on for sixteen times as long.

In half of its clips the model learns to go on from frames that it made itself; seven in ten begin on the way. In some
eight minutes on two old CPU cores.
Launch: `python -m launch.train --config configs/long.py --workdir runs/long`
"""

from nova_jax.configs import demo


def get_config():
  config = demo.get_config()
  config.data.num_frames, config.data.mid_clip_fraction = 16, 0.7
  config.train.steps, config.train.rollout_fraction, config.model.canvas = 1200, 0.5, False
  return config
