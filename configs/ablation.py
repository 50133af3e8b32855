"""A shorter training of the demo's model on clips alone, for the ablations in `configs/sweeps`: half the demo's cost.

Launch: `python -m launch.train --config configs/ablation.py --workdir runs/ablation`
"""

from configs import digits


def get_config():
  config = digits.get_config()
  clips = config.train.stages[-1]
  clips.share = 1.0
  config.train.stages = (clips,)
  # They cost what 1300 of the demo's steps do, a quarter of which are on single frames.
  config.train.steps, config.train.sample_every = 1166, 0
  return config
