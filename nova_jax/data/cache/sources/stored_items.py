"""Items of a source as they are kept while a cache is built: lines of JSON, packed, some thousand in a file.

The first line has the sizes of files that hold several items, by which a source that changes shows; each other one is
  [name, media, fields, problem, line, readable]
where a piece of a file is a list, `line` is what digests of the source are made of, and paths are relative to the
source where they can be, so that hosts may have it in different places.
Invariant: an item comes back as it was listed, but for cells of rare types, of which `Other` has what is asked of them.
"""

import base64
import contextlib
import functools
import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nova_jax.data.cache.clips.failures import may_read
from nova_jax.data.cache.items.cells import Other, number_of
from nova_jax.data.cache.items.item import Cell, Example, Item, Piece
from nova_jax.data.cache.sources import line_of, size_of
from nova_jax.storage import RemotePath, join
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import write_atomically

_LONGEST = 80  # Characters that errors show of a cell.


class Listed(NamedTuple):
  """An item as it was listed.

  Attributes:
    item: of the source.
    line: `sources.line_of` of it.
    readable: whether its files were there and open to us.
  """

  item: Item
  line: str
  readable: bool


def write_items(path: Path, items: Iterable[Item], base: Path) -> int:
  """Write items as one file, and return their number.

  Args:
    path: of the file.
    items: as many as fit into memory.
    base: folder that paths are relative to.
  """
  writer = _Writer(base)
  rows = [json.dumps(writer.row(item)) for item in items]
  content = "\n".join([json.dumps(writer.sizes), *rows])
  write_atomically(path, gzip.compress(content.encode(), 1, mtime=0))
  return len(rows)


class _Writer:
  def __init__(self, base: Path):
    self._base = base
    self._readable: dict[Path, bool] = {}  # A tar has many items.
    self.sizes: dict[str, int | None] = {}

  def row(self, item: Item) -> list[Any]:
    values = (item.media, *item.fields.values())
    readable = all(self._may_read(value.path) for value in values if isinstance(value, Piece))
    fields = {name: self._value(value) for name, value in item.fields.items()}
    return [item.name, self._value(item.media), fields, item.problem, line_of(item), readable]

  def _may_read(self, path: Path) -> bool:
    if path not in self._readable:
      self._readable[path] = may_read(path)
    return self._readable[path]

  def _value(self, value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
      return value
    if isinstance(value, Piece):
      if value.size is None:
        return [self._name(value.path), value.start, None, "", size_of(value)]
      return [self._container(value.path), value.start, value.size, value.packing, None]
    if isinstance(value, Cell):
      return {"cell": [self._container(value.path), value.group, value.row, value.column]}
    if isinstance(value, Example):
      return {"example": [self._name(value.folder), value.split, value.index]}
    if isinstance(value, bytes):
      return {"bytes": base64.b64encode(value).decode()}
    number = None
    with contextlib.suppress(OverflowError, TypeError, ValueError):  # Most are no numbers.
      number = number_of(value)
    return {"other": [type(value).__name__, str(value)[:_LONGEST], number]}

  def _name(self, path: Path) -> str:
    return relative(path, self._base)

  def _container(self, path: Path) -> str:
    name = self._name(path)
    if name not in self.sizes:
      self.sizes[name] = size_of(Piece(path))
    return name


def relative(path: Path, base: Path) -> str:
  """Return a path as `storage.join` takes it back, relative to a folder that it lies in."""
  return str(path).removeprefix(f"{base}/")


def read_items(path: Path, base: Path) -> list[Listed]:
  """Read what `write_items` wrote.

  Raises:
    UserError: a file of the source has another size than when it was listed.
    OSError: storage fails.
  """
  sizes, *rows = map(json.loads, gzip.decompress(path.read_bytes()).decode().split("\n"))
  for name, size in sizes.items():
    _check_size(_joined(base, name), size)
  return [
      Listed(Item(name, _read(media, base), {key: _read(value, base) for key, value in fields.items()}, problem),
             line, readable)
      for name, media, fields, problem, line, readable in rows]


def read_lines(path: Path) -> list[tuple[str, str]]:
  """Return names and lines of what `write_items` wrote."""
  _, *rows = gzip.decompress(path.read_bytes()).decode().split("\n")
  return [(row[0], row[4]) for row in map(json.loads, rows)]


def _read(value: Any, base: Path) -> Any:
  if isinstance(value, list):
    name, start, size, packing, known = value
    path = _joined(base, name)
    if size is None and isinstance(path, RemotePath):
      if known is not None:
        path.known_size = known  # It was listed.
    elif size is None:
      _check_size(path, known)
    return Piece(path, start, size, packing)
  if not isinstance(value, Mapping):
    return value
  ((kind, content),) = value.items()
  if kind == "bytes":
    return base64.b64decode(content)
  if kind == "other":
    return Other(*content)
  return (Cell if kind == "cell" else Example)(_joined(base, content[0]), *content[1:])


@functools.lru_cache(maxsize=64)
def _joined(base: Path, name: str) -> Path:
  return join(base, name)


def _check_size(path: Path, size: int | None) -> None:
  """Refuse a file that has changed; one that is gone is found to be so when it is read."""
  found = None if size is None else size_of(Piece(path))
  if found is not None and found != size:
    raise UserError(
        f"--output: it is of another source: {path} had {size:,} bytes when this cache was begun, and has {found:,}; "
        "give another folder")
