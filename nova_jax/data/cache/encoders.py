"""Frozen encoders of a cache: which they are, and batches of clips as records.

Each device of this host has the autoencoder, and takes a whole batch; a bucket's program is compiled once for all.
Invariant: a record depends on its clip and on those of its batch alone, not on the number of devices.
"""

import collections
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from nova_jax import autoencoders, text
from nova_jax.autoencoders import Autoencoder, PixelAutoencoder
from nova_jax.checkpoints.components import TEXT_ENCODER, VAE
from nova_jax.checkpoints.hub import part_folder
from nova_jax.checkpoints.model_folder import TOKENIZER, open_single_part
from nova_jax.checkpoints.part_digest import weights_digest
from nova_jax.config import CacheConfig
from nova_jax.data.cache.clips.preprocess import Clip, Rejected
from nova_jax.data.cache.format import AutoencoderInfo, TextEncoderInfo
from nova_jax.data.cache.identity import describe_autoencoder, sha256
from nova_jax.data.cache.records import Record
from nova_jax.text import TextEncoder
from nova_jax.text.truncation import truncate
from nova_jax.utils.errors import UserError


def open_autoencoder(
    cfg: CacheConfig, devices: Sequence[jax.Device] = ()
) -> tuple[Autoencoder, AutoencoderInfo]:
  """Load the autoencoder of a config and say which it is.

  Args:
    cfg: the settings.
    devices: see `NeuralAutoencoder`; a built-in one needs none.

  Raises:
    UserError: there is none, or its latents don't divide the buckets.
  """
  if cfg.autoencoder in autoencoders.BUILT_IN:
    found = autoencoders.make_autoencoder(cfg.autoencoder)
  else:
    network = open_single_part(part_folder(cfg.autoencoder, VAE), VAE, autoencoders.BUILT_IN).load()
    found = autoencoders.wrap(network, dtype=cfg.dtype, batch_size=cfg.batch_size, devices=devices)
  _check_buckets(cfg, found)
  return found, describe_autoencoder(cfg.autoencoder, found)


def open_text_encoder(cfg: CacheConfig) -> tuple[TextEncoder, TextEncoderInfo] | tuple[None, None]:
  """Load the text encoder of a config and say which it is; errors as of `open_autoencoder`."""
  if not cfg.text_encoder:
    return None, None
  if cfg.text_encoder in text.BUILT_IN:
    encoder = text.BUILT_IN[cfg.text_encoder](dim=cfg.text_dim, max_length=cfg.text_len)
    return encoder, TextEncoderInfo(cfg.text_encoder, sha256(repr(encoder)), encoder.dim, encoder.max_length)
  part = open_single_part(part_folder(cfg.text_encoder, TEXT_ENCODER), TEXT_ENCODER, text.BUILT_IN)
  tokenizer = text.load_tokenizer(part.folder.parent / TOKENIZER)
  encoder = text.PhiEncoder(part.load(), tokenizer, cfg.text_len)
  digest = sha256(weights_digest(part) + tokenizer.to_str())
  return encoder, TextEncoderInfo(part.class_name, digest, encoder.dim, encoder.max_length)


def _check_buckets(cfg: CacheConfig, autoencoder: Autoencoder) -> None:
  stride = autoencoder.spatial_stride
  for bucket in cfg.buckets:
    if bucket[1] % stride or bucket[2] % stride:
      raise UserError(f"buckets: the autoencoder needs heights and widths in multiples of {stride}, got {bucket}")
    fits = autoencoder.num_frames(autoencoder.num_latent_frames(bucket[0]))
    if fits != bucket[0]:
      raise UserError(f"buckets: the autoencoder has no latents of just {bucket[0]} frames, but of {fits}")


class Encoder:
  """Turns clips into records, batch by batch; a context manager."""

  def __init__(self, cfg: CacheConfig):
    devices = jax.local_devices()
    self._autoencoder, self.autoencoder_info = open_autoencoder(cfg, devices)
    self._text_encoder, self.text_encoder_info = open_text_encoder(cfg)
    self._batch_size = cfg.batch_size
    # Clips that are encoded at once: a batch on each device.
    self.group_size = cfg.batch_size * (1 if isinstance(self._autoencoder, PixelAutoencoder) else len(devices))
    self._thread = ThreadPoolExecutor(1)
    self._flying: collections.deque[Future] = collections.deque()
    self._num_cut = 0

  def __enter__(self) -> "Encoder":
    return self

  def __exit__(self, *_) -> None:
    self._thread.shutdown(cancel_futures=True)

  @property
  def channels(self) -> int:
    """Channels of the pixels that it takes."""
    return self._autoencoder.latent_dim if isinstance(self._autoencoder, PixelAutoencoder) else 3

  def encode(self, group: Sequence[tuple[int, str, Clip]]) -> Iterator[tuple[int, Record | Rejected]]:
    """Start to encode some clips of one bucket, and yield records of earlier ones if many are under way.

    Args:
      group: at most `group_size` clips, each with its number and the name of its item; every `batch_size` of them in a
        row are a batch.
    """
    self._flying.append(self._thread.submit(self._encode, list(group)))
    while len(self._flying) > 2:
      yield from self._flying.popleft().result()

  def finish(self) -> Iterator[tuple[int, Record | Rejected]]:
    """Yield the records of all clips that are still under way."""
    while self._flying:
      yield from self._flying.popleft().result()

  def take_num_cut(self) -> int:
    """Return how many captions were longer than the text encoder reads, since it was asked last; after `finish`."""
    count, self._num_cut = self._num_cut, 0
    return count

  def _encode(self, group: list[tuple[int, str, Clip]]) -> list[tuple[int, Record | Rejected]]:
    # A short batch is filled up, so that each bucket is one program.
    pixels = [clip.pixels for _, _, clip in group] + [group[-1][2].pixels] * (self.group_size - len(group))
    with np.errstate(over="ignore"):
      moments = np.asarray(self._autoencoder.moments(np.stack(pixels))).astype(np.float16)
    embeds = self._embed_batches([clip.texts.caption for _, _, clip in group])
    shorts = self._embed_batches([clip.texts.short_caption or "" for _, _, clip in group])
    return [
        (number, _record(name, clip, *row))
        for (number, name, clip), row in zip(group, zip(moments, embeds, shorts, strict=False), strict=False)]

  def _embed_batches(self, captions: list[str]) -> list[np.ndarray | Rejected | None]:
    """Embed the captions of some batches, each on its own."""
    encoder = self._text_encoder
    if encoder is None:
      return [None] * len(captions)
    starts = range(0, len(captions), self._batch_size)
    return [found for start in starts for found in self._embed(encoder, captions[start : start + self._batch_size])]

  def _embed(self, encoder: TextEncoder, captions: list[str]) -> list[np.ndarray | Rejected]:
    """Embed captions; one that is too long is cut, and one that the encoder refuses, or fails over, is rejected."""
    try:
      texts, cut = zip(*(truncate(encoder, caption) for caption in captions), strict=True)
      rows = zip(*encoder.encode(texts), strict=True)
      found = [embeds[:length].astype(np.float16) for embeds, length in rows]
      self._num_cut += sum(cut)
      return found
    except jax.errors.JaxRuntimeError:  # Of memory that ran out, for one.
      raise
    except Exception as error:  # A tokenizer's, of whatever kind.
      if len(captions) > 1:
        return [self._embed(encoder, [caption])[0] for caption in captions]
      return [Rejected(str(error) if isinstance(error, ValueError) else f"its caption can't be embedded: {error!r}")]


def _record(
    name: str, clip: Clip, moments: np.ndarray, embeds: np.ndarray | Rejected | None,
    short: np.ndarray | Rejected | None,
) -> Record | Rejected:
  """Put together what is known of a clip."""
  short = None if clip.texts.short_caption is None else short
  if isinstance(embeds, Rejected):
    return embeds
  if isinstance(short, Rejected):
    return short
  if not all(np.isfinite(array).all() for array in (moments, embeds, short) if array is not None):
    return Rejected("its latents or embeddings are too large for half precision")
  return Record(
      moments=moments, caption=clip.texts.caption, source=name, short_caption=clip.texts.short_caption,
      text_embeds=embeds, short_text_embeds=short, fps=clip.fps, motion_flow=clip.motion_flow)
