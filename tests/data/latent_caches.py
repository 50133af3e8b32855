"""Small caches for tests of what reads them: every latent says which record it is of."""

import numpy as np

from nova_jax.config import CacheConfig, DataConfig, ModelConfig
from nova_jax.data.cache.format import AutoencoderInfo, TextEncoderInfo, read_manifest, write_cache
from nova_jax.data.cache.records import Record
from nova_jax.data.latents import LatentFeed
from nova_jax.data.loader import Loader
from nova_jax.data.shards import Cache

MODEL = ModelConfig(
    latent_dim=2, latent_size=(4, 4), patch_size=2, width=32, num_heads=2, temporal_depth=1, spatial_depth=2,
    denoiser_depth=1, denoiser_width=16, base_frames=3, text_dim=8, text_len=6, mixer_rank=2)
AUTOENCODER = AutoencoderInfo("made-up", "0" * 64, 2, 8, 4, (0.5,), (2.0,))
WORDS = TextEncoderInfo("made-up", "1" * 64, 8, 6)
EXACT = -30.0  # Log-variance of latents that are certain.


def make_record(number, frames=3, size=(4, 4), logvar=EXACT, embeds=True):
  """Make a record whose means are its number, in every latent, plus a tenth of the frame's."""
  moments = np.full((frames, *size, 4), logvar, np.float16)
  moments[..., :2] = number + 0.125 * np.arange(frames)[:, None, None, None]
  text = np.full((number % 4, 8), number, np.float16)
  return Record(
      moments, f"record {number}", f"{number}.mp4", f"short {number}", text if embeds else None,
      -text[:1] if embeds else None, None if frames == 1 else 24.0, None if frames == 1 else 3.0)


def make_cache(folder, records, weight=1.0, autoencoder=AUTOENCODER, text_encoder=WORDS, shard_items=4):
  """Write records as a cache of shards of four, and open it."""
  stride = autoencoder.spatial_stride
  pixels = [(len(r.moments), *(side * stride for side in r.moments.shape[1:3])) for r in records]
  write_cache(folder, list(zip(pixels, records, strict=True)), autoencoder, text_encoder,
              CacheConfig(shard_items=shard_items))
  return Cache(folder, weight, read_manifest(folder))


def make_loader(
    caches, *, num_frames=3, seed=0, model=MODEL, data=DataConfig(), text_encoder=None, autoencoder=None, **options
):
  """Make a loader of batches of eight, of a model with the caches' autoencoder."""
  autoencoder = autoencoder or caches[0].manifest.autoencoder
  feed = LatentFeed(caches, model, autoencoder, text_encoder, data, num_frames=num_frames, seed=seed)
  return Loader(feed, **{"batch_size": 8, "max_damaged": data.max_damaged, **options})


def numbers(batch, info=AUTOENCODER):
  """Tell which records the rows of a batch are."""
  return np.rint(batch.latents[:, 0].mean((1, 2, 3)) / info.factor[0] + info.shift[0] - 0.001).astype(int).tolist()


def damage(cache, index, count=1):
  """Flip a byte of some records of the first shard, and return its path."""
  path = cache.path / cache.manifest.shards[0].file
  content = bytearray(path.read_bytes())
  for i in range(index, index + count):
    content[content.find(f"record {i}".encode())] ^= 1
  path.write_bytes(content)
  return path
