"""The stream of training batches: records shuffled by Grain, cut to length and encoded.

The stream is one endless sequence of records, shuffled anew each epoch. Batch rows are dealt out to hosts in turn, so
that a step's rows are the same for any number of hosts; they carry their position as `index`.
Invariant: what stands at a position is a function of (source, seed, position, num_frames) alone. The whole state is
the next position: a stream continues exactly where it stopped, also with other hosts, workers or batch sizes.
"""

from typing import Any, Mapping, Sequence

import grain
import numpy as np

from nova_jax.autoencoders import Autoencoder
from nova_jax.text.base import TextEncoder

_CACHE_BYTES = 256 * 2**20  # Sources up to this size are decoded once and kept.
_PREFETCH = 4  # Batches.


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
      shard_index: int = 0,
      shard_count: int = 1,
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
      shard_index: this host, of `shard_count`.
      num_workers: processes that read; 0 reads in a thread.

    Raises:
      ValueError: no records, too short ones, or a batch that does not divide among hosts.
    """
    if not len(source):
      raise ValueError("data: the source has no records")
    if batch_size % shard_count:
      raise ValueError(f"batch_size: {batch_size} does not divide among {shard_count} hosts")
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
    records = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    self._stream = iter(grain.experimental.ElasticIterator(
        records.map_with_index(_with_position), batch_size, grain.sharding.ShardOptions(shard_index, shard_count),
        read_options=grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH),
        multiprocessing_options=grain.MultiprocessingOptions(num_workers) if num_workers else None))

  def __iter__(self) -> "Loader":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    """Return this host's rows of the next batch.

    Returns:
      latents f32 [B,T,h,w,C]; text_embeds f32 [B,L,E] and text_lengths int32 [B], or labels int32 [B]; and
      index int32 [B], the position in the stream modulo 2**31.
    """
    rows = next(self._stream)
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

  def get_state(self) -> int:
    """Return the position of the next batch's first record in the stream."""
    return self._stream.get_state()["global_next_index"]

  def set_state(self, position: int):
    """Continue at a position that `get_state` returned, of this or of an equal stream."""
    self._stream.set_state({"global_next_index": position})

  def close(self):
    """Stop the reading thread or processes."""
    self._stream.close()


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
