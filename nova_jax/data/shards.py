"""The records of caches on disk: shard after shard, damage replaced, in an endless order.

Shuffling permutes indices, so it spans all records of a bucket and needs no memory; each epoch has another order. Where
a request takes long, blocks of neighbours are permuted (`blocks`), and each thread reads a block at once.
Invariant: reading opens files in the process that reads, and the same number is the same record in all of them.
"""

import bisect
import collections
import dataclasses
import errno
import itertools
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grain

from nova_jax.config import Bucket, SourceConfig
from nova_jax.data.blocks import FEW, Blocks, order_of_few
from nova_jax.data.cache.format import Manifest, read_manifest
from nova_jax.data.cache.records import DamagedRecord, Record, ShardReader, decode_record
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.ranges import check_ranges
from nova_jax.utils.terminal import command

if TYPE_CHECKING:
  from nova_jax.data.held_out import Part

_SPARE = 1.25  # Records of a shard differ in size by their captions.
_MOST_OPEN = 32  # Files that a bucket of a cache keeps open in a process, of however many shards.


@dataclasses.dataclass(frozen=True)
class Cache:
  """An opened cache and its share of a mix."""

  path: Path
  weight: float
  manifest: Manifest


def read_caches(sources: Sequence[SourceConfig], name: str = "data.sources") -> tuple[Cache, ...]:
  """Read the manifests of caches.

  Args:
    sources: where they lie, and their weights.
    name: name of the field, for errors.

  Raises:
    UserError: no source, a weight that is not positive, or a folder that is no cache.
  """
  if not sources:
    raise UserError(f"{name}: name a cache, as {command('cache')} writes it")
  return tuple(_read_cache(source, f"{name}[{i}]") for i, source in enumerate(sources))


def _read_cache(source: SourceConfig, name: str) -> Cache:
  check_ranges(source, name)
  try:
    return Cache(as_path(source.path), source.weight, read_manifest(source.path))
  except UserError as error:
    raise UserError(f"{name}.path: {error}") from error


class Shards:
  """The records of one bucket of a cache, shard after shard; each process opens the files anew, and few at a time.

  Storage that fails is an OSError, and no damage: no record is skipped for it.
  """

  def __init__(self, folder: Path, files: Sequence[tuple[str, int]], moments: tuple[int, ...], ahead: int = 0):
    """Open nothing yet.

    Args:
      folder: of the cache.
      files: names of shards and their numbers of records.
      moments: shape of each record's.
      ahead: bytes that are requested at once where several records are read.
    """
    self._folder, self._files, self._moments = folder, [file for file, _ in files], moments
    self._ahead, self._local = ahead, threading.local()  # Of each thread the records that it read together.
    self._ends = list(itertools.accumulate(count for _, count in files))
    # The latest at the end. One that is dropped closes its file when the last thread that reads from it is done.
    self._readers: collections.OrderedDict[str, ShardReader] = collections.OrderedDict()
    self._lock = threading.Lock()

  @classmethod
  def of(cls, cache: Cache, bucket: Bucket, block: int = 1) -> "Shards":
    """Return the records of a bucket, of which at most `block` are read together."""
    shards = [shard for shard in cache.manifest.shards if shard.bucket == bucket]
    moments = next(info.moments for info in cache.manifest.buckets if info.bucket == bucket)
    mean = sum(shard.bytes for shard in shards) / sum(shard.records for shard in shards)
    ahead = round(_SPARE * block * mean) if block > 1 else 0
    return cls(cache.path, [(shard.file, shard.records) for shard in shards], moments, ahead)

  def __len__(self) -> int:
    return self._ends[-1]

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_readers": collections.OrderedDict(), "_lock": None, "_local": None}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state, _lock=threading.Lock(), _local=threading.local())

  def place(self, number: int) -> tuple[str, int]:
    """Return the shard of a record and its index there."""
    shard = bisect.bisect_right(self._ends, number)
    return self._files[shard], number - (self._ends[shard - 1] if shard else 0)

  def __getitem__(self, number: int) -> Record:
    return self.read(number)

  def read(self, number: int, ahead: int = 1) -> Record:
    """Read a record.

    Args:
      number: of the record.
      ahead: records from it on of which this thread will ask for the others next.
    """
    record = self._read(*self.place(number), ahead)
    if record.moments.shape != self._moments:
      raise DamagedRecord(f"it has moments {record.moments.shape}, and its cache {self._moments}")
    return record

  def _read(self, file: str, index: int, ahead: int) -> Record:
    held_file, first, held = getattr(self._local, "held", ("", 0, ()))
    if file != held_file or not first <= index < first + len(held):
      if not self._ahead or ahead == 1:
        return self._reader(file)[index]
      reader = self._reader(file)
      try:
        held = reader.stored(index, min(index + ahead, len(reader)))
      except DamagedRecord:  # Perhaps another one.
        return reader[index]
      self._local.held, first = (file, index, held), index
    return decode_record(held[index - first])

  def _reader(self, file: str) -> ShardReader:
    with self._lock:
      if file not in self._readers:
        self._readers[file] = self._open(self._folder / file)
        if len(self._readers) > _MOST_OPEN:
          self._readers.popitem(last=False)
      self._readers.move_to_end(file)
      return self._readers[file]

  def _open(self, path: Path) -> ShardReader:
    if not path.is_file():  # No damage: `read_caches` has seen it.
      raise OSError(errno.ESTALE, "is gone, but was there when this run began: is its folder still mounted?", str(path))
    return ShardReader(path, self._ahead)

  def named(self, number: int) -> str:
    file, index = self.place(number)
    return f"{self._folder / file}, record {index}"


@dataclasses.dataclass(frozen=True)
class Found:
  """A record, and the damaged ones that it stands in for."""

  record: Record
  skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Whole:
  """Records of which damaged ones are replaced by the next whole one."""

  source: "Shards | Part"
  tries: int

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, number: int) -> Found:
    return self.read(number)

  def read(self, number: int, ahead: int = 1) -> Found:
    """Read a record; arguments as of `Shards.read`."""
    skipped = []
    for following in range(number, number + min(self.tries, len(self.source))):
      following %= len(self.source)
      try:
        return Found(self.source.read(following, ahead), tuple(skipped))
      except ValueError as error:  # Damage of the record, or of the shard's own index.
        reason = str(error) if isinstance(error, DamagedRecord) else f"the shard is damaged ({error})"
        skipped.append(f"{self.source.named(following)}: {reason}")
    raise UserError(f"{skipped[-1]}; damaged records in a row: {len(skipped)}; make the cache anew")


def shuffled(source: Whole, seed: int, block: int = 1) -> grain.MapDataset:
  """Return records in an endless order, another one each epoch.

  Args:
    source: the records.
    seed: of the order.
    block: neighbours that follow each other.
  """
  if block > 1:
    blocks = _InBlocks(source, Blocks(len(source), block, seed))
    return grain.MapDataset.source(blocks)  # ty: ignore[invalid-argument-type] (a number is an int)
  if len(source) < FEW:
    return grain.MapDataset.source(_Few(source, seed))  # ty: ignore[invalid-argument-type] (a number is an int)
  records = grain.MapDataset.source(source)  # ty: ignore[invalid-argument-type] (a number is an int)
  return records.seed(seed).shuffle().repeat()


@dataclasses.dataclass(frozen=True)
class _InBlocks:
  """Records in the order of blocks."""

  source: Whole
  blocks: Blocks

  def __len__(self) -> int:
    return len(self.blocks)

  def __getitem__(self, position: int) -> Found:
    return self.source.read(*self.blocks[position])


@dataclasses.dataclass(frozen=True)
class _Few:
  """Few records, epoch after epoch."""

  source: Whole
  seed: int

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, number: int) -> Found:
    epoch, place = divmod(number, len(self.source))
    return self.source[int(order_of_few(len(self.source), self.seed, epoch)[place])]
