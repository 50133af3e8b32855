"""Clips and pictures for the released models' latents: OpenSora-Plan 1.2 for videos.

Every second frame, as the published recipe takes them: 33 frames of 480 x 768 cover 65. A picture becomes a clip of
one frame. With a folder of the released model's parts,
`python -m launch.cache --source clips --output caches/clips --config configs/cache.py --config.autoencoder=DIR`.
Without it, `--config.autoencoder=rgb --config.buckets="((5, 32, 48),)"` makes pixels the latents, to try things.
"""

from nova_jax.config import CacheConfig
from nova_jax.utils.fields import to_config_dict


def get_config():
  return to_config_dict(CacheConfig(
      buckets=((33, 480, 768), (1, 480, 768)),
      stride=2,
      autoencoder="nova-d48w1024-osp480",
      text_encoder=""))
