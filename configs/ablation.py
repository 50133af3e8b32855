"""The demo's training at half its length, for the ablations in `configs/sweeps`: half the time, and room to be better.

Launch: `python -m launch.train --config configs/ablation.py --workdir runs/ablation`
"""

from configs import digits


def get_config():
  config = digits.get_config()
  config.train.steps, config.train.sample_every = 1300, 0
  return config
