"""The list of a source's items while a cache is built of it, made by all hosts together and held by none.

  DIR/parts/units/walk.json       how many units the source has; written last by the host that walked through it
  DIR/parts/units/000012.todo     unit 12 is a tar or a Parquet table, which the host that claims it lists
  DIR/parts/units/000012-0000.gz  the first items of unit 12, see `stored_items`
  DIR/parts/units/000012.json     how many items these files have, and what is not used; unit 12 is listed
  DIR/parts/units/all.json        where which items are, and the digest of all; the source is listed

Units are numbered in their order in the source; loose files and rows of text tables are units of `_CHUNK` items.
Invariant: memory is that of a few files of items, however large the source, and of some bytes for each of them.
"""

import collections
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nova_jax.config import CacheConfig
from nova_jax.data.cache.claims import Claims, alone
from nova_jax.data.cache.format import MANIFEST, Unused
from nova_jax.data.cache.items.item import Item
from nova_jax.data.cache.sources import Source, digest_of, stored_items
from nova_jax.data.cache.sources import found as found_lib
from nova_jax.data.cache.sources.found import Found, Ranked
from nova_jax.data.cache.sources.stored_items import Listed
from nova_jax.data.cache.sources.units import Unit
from nova_jax.storage import join
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import to_dict
from nova_jax.utils.files import read_json, write_atomically

T = TypeVar("T")
R = TypeVar("R")
UNITS, ALL, _WALK = "units", "all.json", "walk.json"
_CHUNK = 4096  # Items of a file.
_THREADS = 8  # Small files that are read or written at once; each takes tens of milliseconds in a bucket.


def list_source(parts: Path, source: Source, cfg: CacheConfig, host: int = 0, num_hosts: int = 1) -> "Index | None":
  """List a source together with all hosts that do the same, or return the list of the run before.

  None is returned where other hosts have finished the cache meanwhile.

  Args:
    parts: the folder DIR/parts.
    source: the source.
    cfg: names columns.
    host: number of this host, which begins where others don't.
    num_hosts: how many there are.

  Raises:
    UserError: the source can't be read, or has no items.
    OSError: storage fails.
  """
  folder, over = parts / UNITS, parts.parent / MANIFEST
  try:
    return _list(folder, over, source, cfg, host / num_hosts)
  except (OSError, UserError) as error:
    if over.is_file():  # The list was removed after it.
      return None
    if isinstance(error, UserError):  # The next run walks through a source that was mended.
      (folder / _WALK).unlink(missing_ok=True)
    raise


def _list(folder: Path, over: Path, source: Source, cfg: CacheConfig, begin: float) -> "Index":
  for _ in alone(folder, "walk", over):
    _walk(folder, source, cfg)
  walk = read_json(folder / _WALK)
  num_units = walk["num_units"]
  with Claims(folder, num_units, over, first=int(begin * num_units)) as tasks:
    for number in tasks.each():
      _list_unit(folder, number, source, cfg)
  for _ in alone(folder, "all", over):
    _sum_up(folder, walk, source)
  return Index(folder, source.base)


def _walk(folder: Path, source: Source, cfg: CacheConfig) -> None:
  """Number the units, and list those that are loose files or rows of text tables."""
  found, count = Ranked(), itertools.count()
  before = {path.name for path in folder.iterdir()}  # Of a walk that was interrupted, or whose source had no items.

  def later() -> Iterator[tuple[int, Unit]]:
    for number, unit in zip(count, _units(source.walk(cfg, found)), strict=False):
      if isinstance(unit, Unit):
        yield number, unit
      else:
        counts = _write_chunks(folder, number, unit, source.base)
        _write(folder / f"{number:06}.json", {"rank": 0, "unused": [], "counts": counts})

  def write(numbered: tuple[int, Unit]) -> None:
    number, unit = numbered
    path = stored_items.relative(unit.path, source.base)
    if (name := f"{number:06}.json") in before:  # It would say that this unit is listed.
      (folder / name).unlink(missing_ok=True)
    _write(folder / f"{number:06}.todo", dataclasses.asdict(unit) | {"path": path})

  collections.deque(in_order(write, later()), maxlen=0)
  num_units = next(count) - 1  # One was taken in vain.
  unused = [[rank, _as_dicts(unused)] for rank, unused in found.ranked()]
  source.check_any(num_units, found_lib.merged(found.ranked()))
  _write(folder / _WALK, {"num_units": num_units, "unused": unused})


def _units(pieces: Iterable[Item | Unit]) -> Iterator[list[Item] | Unit]:
  """Yield units, and lists of the items between them."""
  loose: list[Item] = []
  for piece in pieces:
    if isinstance(piece, Item):
      loose.append(piece)
    if loose and (isinstance(piece, Unit) or len(loose) == _CHUNK):
      yield loose
      loose = []
    if isinstance(piece, Unit):
      yield piece
  if loose:
    yield loose


def _list_unit(folder: Path, number: int, source: Source, cfg: CacheConfig) -> None:
  values = read_json(folder / f"{number:06}.todo")
  unit, found = Unit(
      values["kind"], join(source.base, values["path"]), values["name"], values["rank"], values["beside_tar"]), Found()
  try:
    counts = _write_chunks(folder, number, unit.items(cfg, found), source.base)
  except UserError as error:
    counts = _write_chunks(folder, number, [unit.problem(error)], source.base)
  _write(folder / f"{number:06}.json", {"rank": unit.rank, "unused": _as_dicts(found.unused()), "counts": counts})


def _write_chunks(folder: Path, number: int, items: Iterable[Item], base: Path) -> list[int]:
  items, counts = iter(items), []
  while chunk := list(itertools.islice(items, _CHUNK)):
    counts.append(stored_items.write_items(_chunk(folder, number, len(counts)), chunk, base))
  return counts


def _sum_up(folder: Path, walk: Mapping[str, Any], source: Source) -> None:
  chunks, unused = [], [_ranked(row) for row in walk["unused"]]
  paths = (folder / f"{number:06}.json" for number in range(walk["num_units"]))
  for number, unit in enumerate(in_order(read_json, paths)):
    unused.append(_ranked([unit["rank"], unit["unused"]]))
    if unit["counts"]:
      chunks.append([number, *unit["counts"]])
  merged = found_lib.merged(unused)
  source.check_any(len(chunks), merged)
  files = [_chunk(folder, number, k) for number, *counts in chunks for k in range(len(counts))]
  digest = digest_of(line for lines in in_order(stored_items.read_lines, files) for _, line in lines)
  _write(folder / ALL, {"digest": digest, "unused": _as_dicts(merged), "chunks": chunks})


class Index:
  """The items of a source, some at a time.

  Attributes:
    digest: `sources.digest` of all of them.
    unused: what the source has beside them.
  """

  def __init__(self, folder: Path, base: Path):
    found = read_json(folder / ALL)
    self.digest, (_, self.unused) = found["digest"], _ranked([0, found["unused"]])
    self._folder = folder
    # Number of the unit and of the file, and how many items there are up to it.
    self._units = np.array([(row[0], k) for row in found["chunks"] for k in range(len(row) - 1)])
    self._ends = np.cumsum([count for row in found["chunks"] for count in row[1:]])
    self._read = functools.lru_cache(maxsize=2)(lambda number: stored_items.read_items(self._path(number), base))

  def __len__(self) -> int:
    return int(self._ends[-1])

  def _path(self, number: int) -> Path:
    return _chunk(self._folder, *self._units[number])

  def items(self, start: int, stop: int) -> list[Listed]:
    """Return some items; errors as of `stored_items.read_items`."""
    found, stop = [], min(stop, len(self))
    for number in range(*np.searchsorted(self._ends, (start, stop - 1), side="right") + (0, 1)):
      begin = int(self._ends[number - 1]) if number else 0
      found += self._read(number)[max(start - begin, 0) : stop - begin]
    return found

  def lines(self) -> Iterator[tuple[str, str]]:
    """Yield names and lines of all items, as `stored_items.read_lines` does."""
    files = (self._path(number) for number in range(len(self._ends)))
    return itertools.chain.from_iterable(in_order(stored_items.read_lines, files))


def in_order(act: Callable[[T], R], files: Iterable[T]) -> Iterator[R]:
  """Yield what is read of some files, or written to them, in their order; a few are under way at a time."""
  files = iter(files)
  with ThreadPoolExecutor(_THREADS) as pool:
    ahead = [pool.submit(act, file) for file in itertools.islice(files, _THREADS)]
    while ahead:
      yield ahead.pop(0).result()
      ahead += [pool.submit(act, file) for file in itertools.islice(files, 1)]


def _chunk(folder: Path, number: int, k: int) -> Path:
  return folder / f"{number:06}-{k:04}.gz"


def _write(path: Path, value: Any) -> None:
  write_atomically(path, json.dumps(value))


def _as_dicts(unused: Sequence[Unused]) -> list[dict[str, Any]]:
  return [to_dict(each) for each in unused]


def _ranked(row: list[Any]) -> tuple[int, tuple[Unused, ...]]:
  rank, unused = row
  return rank, tuple(Unused(each["kind"], each["count"], tuple(each["examples"])) for each in unused)
