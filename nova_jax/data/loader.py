"""The stream of training batches: records in Grain's order, drawn, batched and finished.

A stage's records stand in one or several buckets, endless sequences of records of one shape. Batch follows batch, each
from one bucket; buckets take turns by weight, and within a bucket batch follows batch of its sequence. A row of a
step's batch is the same for any number of hosts, each of which reads the rows that its devices need (`rows.py`); rows
carry their position in the stream as `index`.
Invariant: what stands at a position is a function of (feed, position, batch size) alone, and of (feed, position) if
there is one bucket. The whole state is the next position: a stream continues exactly where it stopped, also with other
hosts or workers, and with one bucket with other batch sizes. Memory is that of a few batches, however large the data.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from nova_jax.diffusion.batch import Batch, as_batch
from nova_jax.utils.errors import UserError
from nova_jax.utils.terminal import say

_PREFETCH = 4  # Batches at most, and as many as fit into the bytes below, that are read ahead.
_PREFETCH_BYTES = 2**30
_END = 2**62  # Records in an endless stream.

Rows = dict[str, np.ndarray]  # By name; the first axis is the rows.


@dataclasses.dataclass(frozen=True)
class Bucket:
  """Records of one shape, from which whole batches are made."""

  records: grain.MapDataset  # Endless.
  weight: float = 1.0  # Of its batches among all.


class Feed(Protocol):
  """The data of a stage: buckets of records, and the functions that turn records into batches.

  A feed that reads from far away has an attribute `num_threads`, the number of batches that are read at once. Their
  order stays.
  """

  @property
  def buckets(self) -> Sequence[Bucket]:
    """Buckets of records, each with its share of the batches."""

  def make_row(self, record: Any, position: int, /) -> Mapping[str, Any]:
    """Return a row for a record, in the process that reads; all randomness derives from the position.

    If the row replaces damaged records, it may name them as bytes `damaged`, one per line.
    """

  def collate(self, rows: Rows) -> Rows:
    """Return the fields of a batch for stacked rows, in the process that trains."""


class Loader:
  """An endless iterator of batches of one stage: see `__next__`."""

  def __init__(
      self,
      feed: Feed,
      *,
      batch_size: int,
      rows: Sequence[int] | None = None,
      num_workers: int = 0,
      max_damaged: int = 0,
  ):
    """Start at position 0.

    Args:
      feed: of the stage.
      batch_size: of all hosts together.
      rows: those of each batch that this host reads, in ascending order; None reads all.
      num_workers: processes that read; 0 reads in a thread.
      max_damaged: records that may be skipped as damaged, before it is an error.
    """
    self._feed = feed
    self._batch_size, self._rows = batch_size, tuple(range(batch_size) if rows is None else rows)
    self._workers = grain.MultiprocessingOptions(num_workers) if num_workers else None
    self._position = 0
    self._stream: grain.DatasetIterator | None = None
    self._max_damaged = max_damaged
    self.damaged: list[str] = []

  def __iter__(self) -> "Loader":
    return self

  def __next__(self) -> Batch:
    """Return this host's rows of the next batch.

    Returns:
      NumPy arrays: latents f32; text_embeds f32 (f16 if they were stored) and text_lengths int32, or labels int32;
      motion_flow and fps f32 if the feed knows them; given int32 if clips may begin later; and index int32.

    Raises:
      UserError: more records are damaged than may be; the error names one and its shard.
    """
    if self._stream is None:
      self._stream = self._start()
    rows = next(self._stream)
    self._position += self._batch_size
    for names in rows.pop("damaged", np.empty(0, bytes)).tolist():
      self._skip(names.decode().splitlines())
    return as_batch(self._feed.collate(rows) | {"index": (rows["position"] % 2**31).astype(np.int32)})

  def _skip(self, names: Sequence[str]) -> None:
    for name in names:
      if name not in self.damaged:
        self.damaged.append(name)
        if len(self.damaged) > self._max_damaged:
          raise UserError(
              f"{name}; it is damaged record {len(self.damaged)}, and data.max_damaged={self._max_damaged}: make the "
              "cache anew, or skip more")
        say(f"skipping damaged record {len(self.damaged)} of at most {self._max_damaged}: {name}")

  def _start(self) -> grain.DatasetIterator:
    """Start to read this host's rows of the batches from the present position on."""
    read = _Rows(self._feed, _turns(self._feed.buckets), self._position, self._batch_size, self._rows)
    numbers = grain.MapDataset.range(len(self._rows) * (_END // self._batch_size))
    size = sum(np.asarray(value).nbytes for value in read(0).values()) * len(self._rows)
    threads = getattr(self._feed, "num_threads", 1)
    prefetch = max(1, min(max(_PREFETCH, threads), _PREFETCH_BYTES // max(size, 1)))
    batches = numbers.map(read).batch(len(self._rows), drop_remainder=True).to_iter_dataset(
        grain.ReadOptions(num_threads=min(threads, prefetch), prefetch_buffer_size=prefetch))
    return iter(batches.mp_prefetch(self._workers) if self._workers else batches)

  def get_state(self) -> int:
    """Return the position of the next batch's first record in the stream."""
    return self._position

  def set_state(self, position: int, damaged: Sequence[str] = ()):
    """Continue at a position that `get_state` returned, of this or of an equal stream.

    Args:
      position: of the next batch's first record.
      damaged: records that were skipped before.

    Raises:
      UserError: a position within a batch, if there are several buckets.
    """
    if len(self._feed.buckets) > 1 and position % self._batch_size:
      raise UserError(
          f"the stream stopped at record {position}, within a batch of {self._batch_size}; with several buckets it "
          "continues with its own batch size only")
    self.close()
    self._position, self.damaged = position, list(damaged)

  def close(self):
    """Stop the reading thread or processes."""
    if self._stream is not None:
      self._stream.close()
      self._stream = None


@dataclasses.dataclass(frozen=True)
class _Rows:
  """From a number to a row: counts through some rows of batch after batch."""

  feed: Feed
  turns: Any  # Endless: the bucket of each batch, and which of the bucket's batches it is.
  first: int  # Position of the first batch.
  batch_size: int
  rows: tuple[int, ...]

  def __call__(self, number: int) -> dict[str, Any]:
    batch, row = divmod(int(number), len(self.rows))
    position = self.first + batch * self.batch_size + self.rows[row]
    # A stream of one bucket may begin within a batch: a step's rows may then be of two batches.
    bucket, batch = self.turns[position // self.batch_size]
    record = self.feed.buckets[bucket].records[batch * self.batch_size + position % self.batch_size]
    return {**self.feed.make_row(record, position), "position": np.int64(position)}


def _turns(buckets: Sequence[Bucket]) -> grain.MapDataset:
  turns = [grain.MapDataset.range(_END).map(lambda batch, bucket=i: (bucket, batch)) for i in range(len(buckets))]
  return grain.MapDataset.mix(turns, [bucket.weight for bucket in buckets])
