"""Shuffling in blocks of neighbours, for caches in a bucket: the records of a block are read by one request.

  record(e, i) = (r_e + B · π_e(⌊i / B⌋) + i mod B) mod N

Of N records, epoch e cuts blocks of B neighbours from a random record r_e on, and π_e permutes them. The last block,
which may be shorter, comes last. Invariant: as without blocks, each epoch has each record once, in another order, which
is a function of (seed, position) and needs no memory.
"""

import dataclasses
import functools
import sys
from typing import Any

import grain
import numpy as np

FEW = 1024  # Grain's shuffle takes time in inverse proportion to the number of records: for three of them 10 ms.


@dataclasses.dataclass(frozen=True)
class Blocks:
  """Numbers of records, epoch after epoch.

  Attributes:
    count: number of records.
    size: records of a block.
    seed: of the order.
  """

  count: int
  size: int
  seed: int

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, position: int) -> tuple[int, int]:
    """Return the number of a record, and how many records of its block there are from it on."""
    epoch, place = divmod(int(position), self.count)
    block, within = divmod(place, self.size)
    num_whole = self.count // self.size
    if block < num_whole:
      block = permuted(num_whole, self.seed, epoch, block)
    left = min(self.size, self.count - block * self.size) - within
    return (self._first(epoch) + block * self.size + within) % self.count, left

  def _first(self, epoch: int) -> int:
    return int(np.random.SeedSequence((self.seed, epoch, 1)).generate_state(1, np.uint64)[0]) % self.count


def permuted(count: int, seed: int, epoch: int, place: int) -> int:
  """Return which of `count` stands at a place of an epoch's order."""
  if count < FEW:
    return int(order_of_few(count, seed, epoch)[place])
  order: Any = _order_of_many(count, seed)
  return int(order[epoch * count + place])


@functools.lru_cache(maxsize=64)
def order_of_few(count: int, seed: int, epoch: int) -> np.ndarray:
  """Return the order of an epoch of a few."""
  return np.argsort(np.random.SeedSequence((seed, epoch)).generate_state(count, np.uint64), kind="stable")


@functools.lru_cache(maxsize=64)
def _order_of_many(count: int, seed: int) -> grain.MapDataset:
  return grain.MapDataset.range(count).seed(seed).shuffle().repeat()
