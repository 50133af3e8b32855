"""The records of caches on disk: shard after shard, damage replaced, in an endless order.

Shuffling permutes indices, so it spans all records of a bucket and needs no memory; each epoch has another order.
Invariant: reading opens files in the process that reads, and the same number is the same record in all of them.
"""

import bisect
import dataclasses
import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from nova_jax.config import Bucket, SourceConfig
from nova_jax.data.cache.format import DamagedRecord, Manifest, Record, ShardReader, read_manifest

_FEW = 1024  # Grain's shuffle takes time in inverse proportion to the number of records: for three of them 10 ms.


@dataclasses.dataclass(frozen=True)
class Cache:
  """An opened cache and its share of a mix."""

  path: Path
  weight: float
  manifest: Manifest


def read_caches(sources: Sequence[SourceConfig]) -> tuple[Cache, ...]:
  """Read the manifests of caches.

  Raises:
    ValueError: no source, a weight that is not positive, or a folder that is no cache.
  """
  if not sources:
    raise ValueError("data.sources: name a cache, as launch.cache writes it")
  for source in sources:
    if source.weight <= 0:
      raise ValueError(f"data.sources: expected a positive weight of {source.path}, got {source.weight}")
  return tuple(Cache(Path(source.path), source.weight, read_manifest(source.path)) for source in sources)


class Shards:
  """The records of one bucket of a cache, shard after shard; each process opens the files anew."""

  def __init__(self, folder: Path, files: Sequence[tuple[str, int]]):
    self._folder, self._files = folder, [file for file, _ in files]
    self._ends = list(itertools.accumulate(count for _, count in files))
    self._readers: dict[str, ShardReader] = {}

  @classmethod
  def of(cls, cache: Cache, bucket: Bucket) -> "Shards":
    shards = (shard for shard in cache.manifest.shards if shard.bucket == bucket)
    return cls(cache.path, [(shard.file, shard.records) for shard in shards])

  def __len__(self) -> int:
    return self._ends[-1]

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_readers": {}}

  def place(self, number: int) -> tuple[str, int]:
    """Return the shard of a record and its index there."""
    shard = bisect.bisect_right(self._ends, number)
    return self._files[shard], number - (self._ends[shard - 1] if shard else 0)

  def __getitem__(self, number: int) -> Record:
    file, index = self.place(number)
    if file not in self._readers:
      self._readers[file] = ShardReader(self._folder / file)
    return self._readers[file][index]

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

  source: Shards
  tries: int

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, number: int) -> Found:
    skipped = []
    for following in range(number, number + min(self.tries, len(self.source))):
      following %= len(self.source)
      try:
        return Found(self.source[following], tuple(skipped))
      except ValueError as error:  # Damage of the record, or of the shard's own index.
        reason = str(error) if isinstance(error, DamagedRecord) else f"the shard is damaged ({error})"
        skipped.append(f"{self.source.named(following)}: {reason}")
    raise ValueError(f"{skipped[-1]}; {len(skipped)} records in a row are damaged: make the cache anew")


def shuffled(source: Whole, seed: int) -> grain.MapDataset:
  """Return records in an endless order, another one each epoch."""
  if len(source) < _FEW:
    return grain.MapDataset.source(_Few(source, seed))
  return grain.MapDataset.source(source).seed(seed).shuffle().repeat()


@dataclasses.dataclass(frozen=True)
class _Few:
  """Few records, epoch after epoch."""

  source: Whole
  seed: int

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, number: int) -> Found:
    epoch, place = divmod(number, len(self.source))
    return self.source[int(_order(len(self.source), self.seed, epoch)[place])]


@functools.lru_cache(maxsize=64)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
  return np.argsort(np.random.SeedSequence((seed, epoch)).generate_state(count, np.uint64), kind="stable")
