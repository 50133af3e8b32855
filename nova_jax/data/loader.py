"""The stream of training batches: records shuffled by Grain, cut to length and encoded.

The stream is one endless sequence of records, shuffled anew each epoch. Batch follows batch in it, so that a row of a
step's batch is the same for any number of hosts, each of which reads the rows that its devices need (`rows.py`); rows
carry their position in the stream as `index`.
Invariant: what stands at a position is a function of (source, seed, position, num_frames) alone. The whole state is
the next position: a stream continues exactly where it stopped, also with other hosts, workers or batch sizes.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from nova_jax.autoencoders import Autoencoder
from nova_jax.text.base import TextEncoder

_CACHE_BYTES = 256 * 2**20  # Sources up to this size are decoded once and kept.
_PREFETCH = 4  # Batches.
_END = 2**62  # Records in an endless stream.


class Loader:
  """An endless iterator of batches of one stage: see `__next__`."""

  def __init__(
      self,
      source: Sequence[Mapping[str, Any]],
      text_encoder: TextEncoder | None,
      autoencoder: Autoencoder,
      *,
      num_frames: int,
      seed: int,
      batch_size: int,
      rows: Sequence[int] | None = None,
      num_workers: int = 0,
  ):
    """Start at position 0.

    Args:
      source: random-access records with `video` uint8 [T,height,width,channels], `caption` and `digit`.
      text_encoder: embeds the captions; None for a class-conditional model, which gets digits as labels.
      autoencoder: encodes the clips.
      num_frames: latent frames of a sample. Longer records are cut after their first frames; single frames are taken
        from anywhere in them, at random.
      seed: of the shuffle and of single frames.
      batch_size: of all hosts together.
      rows: those of each batch that this host reads, in ascending order; None reads all.
      num_workers: processes that read; 0 reads in a thread.

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
    self._text_encoder = text_encoder
    self._autoencoder = autoencoder
    self._seed = seed
    if video.nbytes * len(source) <= _CACHE_BYTES:
      source = _Remembering(source)
    self._records = grain.MapDataset.source(source).seed(seed).shuffle().repeat().map_with_index(_with_position)
    self._batch_size, self._rows = batch_size, tuple(range(batch_size) if rows is None else rows)
    self._workers = grain.MultiprocessingOptions(num_workers) if num_workers else None
    self._position, self._stream = 0, None

  def __iter__(self) -> "Loader":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    """Return this host's rows of the next batch.

    Returns:
      latents f32 [B,T,h,w,C]; text_embeds f32 [B,L,E] and text_lengths int32 [B], or labels int32 [B]; and
      index int32 [B], the position in the stream modulo 2**31.
    """
    if self._stream is None:
      self._stream = self._start()
    rows = next(self._stream)
    self._position += self._batch_size
    batch = {
        "latents": self._autoencoder.encode(self._cut(rows["video"], rows["position"])),
        "index": (rows["position"] % 2**31).astype(np.int32),
    }
    if self._text_encoder is None:
      batch["labels"] = rows["digit"].astype(np.int32)
    else:
      captions = [caption.decode() for caption in rows["caption"].tolist()]
      batch["text_embeds"], batch["text_lengths"] = self._text_encoder.encode(captions)
    return batch

  def _cut(self, videos: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Cut clips [B,T,…] to the length asked for."""
    if self._num_pixel_frames > 1:
      return videos[:, :self._num_pixel_frames]
    words = [np.random.SeedSequence((self._seed, position)).generate_state(1)[0] for position in positions.tolist()]
    frames = np.array(words) % videos.shape[1]
    return videos[np.arange(len(videos)), frames][:, None]

  def _start(self) -> Iterator[dict[str, np.ndarray]]:
    """Start to read this host's rows of the batches from the present position on."""
    numbers = grain.MapDataset.range(len(self._rows) * (_END // self._batch_size))
    records = numbers.map(_Rows(self._records, self._position, self._batch_size, self._rows))
    batches = records.batch(len(self._rows), drop_remainder=True).to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH))
    return iter(batches.mp_prefetch(self._workers) if self._workers else batches)

  def get_state(self) -> int:
    """Return the position of the next batch's first record in the stream."""
    return self._position

  def set_state(self, position: int):
    """Continue at a position that `get_state` returned, of this or of an equal stream."""
    self.close()
    self._position = position

  def close(self):
    """Stop the reading thread or processes."""
    if self._stream is not None:
      self._stream.close()
      self._stream = None


@dataclasses.dataclass(frozen=True)
class _Rows:
  """From a number to a record: counts through some rows of batch after batch."""

  records: grain.MapDataset
  first: int  # Position of the first batch.
  batch_size: int
  rows: tuple[int, ...]

  def __call__(self, number: int) -> Mapping[str, Any]:
    batch, row = divmod(int(number), len(self.rows))
    return self.records[self.first + batch * self.batch_size + self.rows[row]]


def _with_position(position: int, record: Mapping[str, Any]) -> dict[str, Any]:
  return {**record, "position": np.int64(position)}


class _Remembering:
  """A source that decodes each record once and keeps it."""

  def __init__(self, source: Sequence[Mapping[str, Any]]):
    self._source = source
    self._records = [None] * len(source)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, number: int) -> Mapping[str, Any]:
    if self._records[number] is None:
      self._records[number] = self._source[number]
    return self._records[number]
