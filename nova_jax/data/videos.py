"""Records of raw pixels, encoded as they are read: how the moving digits are fed to training.

Longer clips are cut after their first frames; single frames are taken from anywhere in them, at random.
Invariant: a row is a function of (source, seed, position, num_frames).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from nova_jax.autoencoders import Autoencoder
from nova_jax.data.loader import Batch, Bucket
from nova_jax.text import TextEncoder

_CACHE_BYTES = 256 * 2**20  # Sources up to this size are decoded once and kept.

Source = Sequence[Mapping[str, Any]]


class VideoFeed:
  """Feeds records with `video` uint8 [T,height,width,channels], `caption` and `digit`; a `Feed` of one bucket."""

  def __init__(
      self, source: Source, text_encoder: TextEncoder | None, autoencoder: Autoencoder, *, num_frames: int, seed: int
  ):
    """Shuffle the records.

    Args:
      source: random-access records.
      text_encoder: embeds the captions; None for a class-conditional model, which gets digits as labels.
      autoencoder: encodes the clips.
      num_frames: latent frames of a sample.
      seed: of the shuffle and of single frames.

    Raises:
      ValueError: no records, or too short ones.
    """
    if not len(source):
      raise ValueError("data: the source has no records")
    self._num_pixel_frames = autoencoder.num_frames(num_frames)
    video = source[0]["video"]
    if len(video) < self._num_pixel_frames:
      raise ValueError(
          f"num_frames: {num_frames} latent frames need clips of {self._num_pixel_frames} frames, but the records have"
          f" {len(video)}: store longer ones (data.num_frames)")
    self._text_encoder, self._autoencoder, self._seed = text_encoder, autoencoder, seed
    if video.nbytes * len(source) <= _CACHE_BYTES:
      source = _Remembering(source)
    self.buckets = (Bucket(grain.MapDataset.source(source).seed(seed).shuffle().repeat()),)

  def draw(self, record: Mapping[str, Any], position: int) -> Mapping[str, Any]:
    """Cut the clip to the length asked for."""
    first, last = 0, self._num_pixel_frames
    if last == 1:
      word = np.random.SeedSequence((self._seed, position)).generate_state(1)[0]
      first = int(word % len(record["video"]))
      last = first + 1
    return {"video": record["video"][first:last], "caption": record["caption"], "digit": record["digit"]}

  def finish(self, rows: Batch) -> Batch:
    """Encode clips, and captions unless the model takes labels."""
    batch = {"latents": self._autoencoder.encode(rows["video"])}
    if self._text_encoder is None:
      batch["labels"] = rows["digit"].astype(np.int32)
    else:
      captions = [caption.decode() for caption in rows["caption"].tolist()]
      batch["text_embeds"], batch["text_lengths"] = self._text_encoder.encode(captions)
    return batch


class _Remembering:
  """A source that decodes each record once and keeps it."""

  def __init__(self, source: Source):
    self._source = source
    self._records = [None] * len(source)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, number: int) -> Mapping[str, Any]:
    if self._records[number] is None:
      self._records[number] = self._source[number]
    return self._records[number]
