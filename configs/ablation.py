"""A shorter training of the digits' model on clips alone, for the ablations in `configs/sweeps`.

Launch: `python -m launch.train --config configs/ablation.py --workdir runs/ablation`
"""

from nova_jax.configs import digits


def get_config():
  config = digits.get_config()
  clips = config.train.stages[-1]
  clips.fraction = 1.0
  config.train.stages = (clips,)
  # As when the results of docs/ablations.md were made: no digit turns, guidance was stronger, and noise was whole.
  config.data.num_frames, config.data.mid_clip_fraction, config.data.turning_fraction = 11, 0.3, 0.0
  config.sample.guidance_scale, config.sample.temperature = 2.5, 1.0
  # They cost what 1300 of the digits' steps did then, a quarter of which were on single frames.
  config.train.steps, config.train.sample_every = 1166, 0
  return config
