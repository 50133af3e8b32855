"""A shorter training on two digits that cross, for ablations and the comparison of paradigms: a third of the whole.

Launch: `python -m launch.train --config configs/two_digits_ablation.py --workdir runs/two_digits_ablation`
"""

from nova_jax.configs import two_digits


def get_config():
  config = two_digits.get_config()
  config.train.steps, config.train.sample_every = 800, 0
  config.train.ema_decay = 0.994  # It forgets in a third of the steps, too.
  config.optimizer.warmup_steps = 35
  return config
