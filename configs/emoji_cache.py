"""Pictures of 32 x 32 pixels with captions in words, for configs/emoji.py; benchmarks/emoji.py draws them.

Launch: `python -m launch.cache --source clips/emoji/train --output caches/emoji --config configs/emoji_cache.py`
"""

from nova_jax.config import CacheConfig
from nova_jax.utils.fields import to_config_dict


def get_config():
  return to_config_dict(CacheConfig(
      buckets=((1, 32, 32),), autoencoder="rgb", text_encoder="words", text_dim=64, text_len=16, shard_items=1024,
      batch_size=64))
