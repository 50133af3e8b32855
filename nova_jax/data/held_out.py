"""Records of caches that are held out from training.

Invariant: which records are held out is a function of their fraction and of the number of records in their bucket
alone, so all stages, seeds and processes hold out the same ones.
"""

import dataclasses

import numpy as np

from nova_jax.data.cache.records import Record
from nova_jax.data.shards import Shards

SEED = 0  # Seed of all that evaluation draws: runs of any seed see the same, and can be compared.


@dataclasses.dataclass(frozen=True)
class Split:
  """Which records of each bucket of a cache are taken.

  Attributes:
    fraction: fraction of the records that is held out.
    held_out: whether the held-out records are taken, or all others.
  """

  fraction: float
  held_out: bool

  def of(self, shards: Shards) -> "Part":
    """Return the records that are taken."""
    return Part(shards, held_out_numbers(len(shards), self.fraction), self.held_out)


def held_out_numbers(count: int, fraction: float) -> np.ndarray:
  """Return the numbers of the held-out ones among `count` records, int64 [K], ascending.

  Both sides of the split have a record at least, if there are two records.
  """
  num = min(max(round(fraction * count), 1), count - 1)
  order = np.random.SeedSequence((SEED, count)).generate_state(count, np.uint64)
  return np.sort(np.argsort(order, kind="stable")[:num])


class Part:
  """Some records of a bucket, in their order: the held-out ones, or all others."""

  def __init__(self, source: Shards, numbers: np.ndarray, held_out: bool):
    """Choose records.

    Args:
      source: records of the bucket.
      numbers: numbers of the held-out ones, ascending.
      held_out: whether these are taken, or all others.
    """
    self._source, self._numbers, self._held_out = source, numbers, held_out
    self._before = numbers - np.arange(len(numbers))  # Number of the others before each held-out record.

  def __len__(self) -> int:
    return len(self._numbers) if self._held_out else len(self._source) - len(self._numbers)

  def read(self, number: int, ahead: int = 1) -> Record:
    """Read a record; arguments as of `Shards.read`. The held-out ones are no neighbours."""
    return self._source.read(self._whole(number), 1 if self._held_out else ahead)

  def named(self, number: int) -> str:
    return self._source.named(self._whole(number))

  def _whole(self, number: int) -> int:
    """Return the number of a record in the whole bucket."""
    if self._held_out:
      return int(self._numbers[number])
    return number + int(np.searchsorted(self._before, number, side="right"))
