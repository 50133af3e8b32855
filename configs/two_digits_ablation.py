"""A shorter training on two digits that cross, for ablations and the comparison of paradigms: a third of the steps.

Launch: `python -m launch.train --config configs/two_digits_ablation.py --workdir runs/two_digits_ablation`
"""

from nova_jax.configs import two_digits


def get_config():
  config = two_digits.get_config()
  images, clips = config.train.stages
  images.fraction, clips.fraction = 0.4, 0.6
  config.train.steps, config.train.sample_every = 1000, 0
  config.train.ema_decay = 0.996  # It forgets in fewer steps, too.
  config.optimizer.warmup_steps = 50
  return config
