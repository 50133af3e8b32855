"""A shorter training on two digits that cross, for ablations and the comparison of paradigms: half of the steps.

In 1,000 steps, 400 of them on first frames, no digit was bound to its way: digits 0.015 of 400 clips, with a canvas or
without. In 1,800, 504 of them on first frames, it was 0.850 of 120 clips.
Launch: `python -m launch.train --config configs/two_digits_ablation.py --workdir runs/two_digits_ablation`
"""

from nova_jax.configs import two_digits


def get_config():
  config = two_digits.get_config()
  images, clips = config.train.stages
  images.fraction, clips.fraction = 0.28, 0.72
  config.train.steps, config.train.sample_every = 1800, 0
  return config
