"""A short training on two digits that cross, for ablations and the comparison of paradigms.

A model of 2 M parameters learns plain captions and clips that begin at the beginning, in some nine minutes on two old
CPU cores. Batches are small: in equal time many steps of few clips learn more than few steps of many.
Launch: `python -m launch.train --config configs/two_digits_ablation.py --workdir runs/two_digits_ablation`
"""

from nova_jax.configs import two_digits


def get_config():
  config = two_digits.get_config()
  config.model.width, config.model.num_heads, config.model.denoiser_width = 128, 4, 128
  config.model.temporal_depth, config.model.spatial_depth = 3, 4
  config.data.num_frames, config.data.mid_clip_fraction, config.data.paraphrase_fraction = 8, 0.0, 0.0
  images, clips = config.train.stages
  images.fraction, images.batch_size = 0.22, 32
  clips.fraction, clips.batch_size = 0.78, 4
  config.train.steps, config.train.ema_decay, config.train.sample_every = 1600, 0.99, 0
  config.optimizer.warmup_steps = 30
  return config
