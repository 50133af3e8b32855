"""Folders as sources: videos and pictures at any depth with captions beside them, tars, and tables.

  NAME.mp4 with NAME.txt or NAME.json   see `sidecars`; what has another ending and begins like media is an item too
  metadata.jsonl, .csv or .parquet      captions of files beside it, as Hugging Face has them: `file_name` and `text`
  *.tar, also compressed                WebDataset: see `tars`
  *.parquet                             rows of a data set, if it has a column of paths or media: see `rows`

Links are followed, to folders once. A caption that is a link out of the source is read only if its clip is a link to
the same folder: else a source from a stranger could ask for any file of the machine.
Invariants: each file is an item, belongs to one, or is counted as not used. Of the source, the names in a folder and in
those above it are held at a time, and the tables of captions there.
"""

import contextlib
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nova_jax.config import CacheConfig
from nova_jax.data.cache.items.item import Item, Piece
from nova_jax.data.cache.sources import found as kinds
from nova_jax.data.cache.sources.found import Ranked
from nova_jax.data.cache.sources.sidecars import TEXTS, pair
from nova_jax.data.cache.sources.tables import read_metadata
from nova_jax.data.cache.sources.tars import is_tar
from nova_jax.data.cache.sources.units import MEDIA, TABLE, TAR, Unit, Unlike
from nova_jax.media.signatures import HEAD, looks_like_media
from nova_jax.media.tables import is_missing
from nova_jax.storage import RemotePath

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_ARCHIVES = (b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c", b"Rar!")


def walk_folder(folder: Path, cfg: CacheConfig, found: Ranked, without: Path | None = None) -> Iterator[Item | Unit]:
  """Yield the items of a folder, and its tars and tables unread, in the order of their paths.

  Args:
    folder: the source.
    cfg: names the columns of tables.
    found: is told what is not used.
    without: a folder that is passed over, if it is in the source.

  Raises:
    UserError: a table of captions can't be read.
    OSError: storage fails, or the folder itself can't be read.
  """
  walk = _Walk(folder, found, without)
  tables = _Captions(walk, cfg, found)
  yield from map(Unlike(), walk.problems)
  yield from _in_folder(folder, walk, tables, cfg, found)
  yield from map(Unlike(), tables.left())


def _in_folder(
    directory: Path, walk: "_Walk", tables: "_Captions", cfg: CacheConfig, found: Ranked
) -> Iterator[Item | Unit]:
  entries = walk.entries(directory)
  files = [entry.path for entry in entries if not entry.is_folder]
  for path in files:
    if path.name in _METADATA:
      tables.read(path)
  own, unlike = None, Unlike()
  for entry in entries:
    if entry.is_folder:
      yield from _in_folder(entry.path, walk, tables, cfg, found)
      continue
    if own is None:
      walk.links = {entry.path: entry.leads for entry in entries if entry.leads is not None}
      own = _beside(directory, [path for path in files if path.name not in _METADATA], walk, found, tables)
    items = own.get(entry.path, ())
    yield from [items] if isinstance(items, Unit) else map(unlike, items)


class _Captions:
  """Tables of captions by the files that they name."""

  def __init__(self, walk: "_Walk", cfg: CacheConfig, found: Ranked):
    self._walk, self._cfg, self._found = walk, cfg, found
    self._rows: dict[str, list[tuple[Path, int, Item]]] = {}

  def read(self, path: Path) -> None:
    """Add what a table says of files in its folder and below, before these are met."""
    rows = read_metadata(path, self._walk.folder, self._cfg)
    if rows is None:
      self._found.first.add(kinds.TABLES, self._walk.name(path))
    for number, (name, item) in enumerate(rows or ()):
      self._rows.setdefault(_key(name), []).append((path, number, item))

  def take(self, name: str) -> list[Item]:
    """Return the rows about a file in the order of their tables, and forget them."""
    return [item for _, _, item in sorted(self._rows.pop(_key(name), []), key=lambda row: row[:2])]

  def left(self) -> list[Item]:
    """Return an item for each row whose file is not there, in the order in which the tables name the files."""
    place = lambda row: row[:2]
    by_name = [sorted(rows, key=place) for rows in self._rows.values()]
    return [
        Item(row.name, None, {}, row.problem or f"there is no {row.fields['file_name']!r}")
        for rows in sorted(by_name, key=lambda rows: place(rows[0])) for _, _, row in rows]


def _beside(
    directory: Path, files: list[Path], walk: "_Walk", found: Ranked, tables: _Captions
) -> dict[Path, Sequence[Item] | Unit]:
  """Return the items among the files of one folder, by file."""
  texts = {path for path in files if path.suffix.lower() in TEXTS}
  tars = {path for path in files if is_tar(path) and not walk.broken(path)}
  media = {path for path in files if path not in texts and path not in tars and _is_media(path, walk)}
  pairs = pair([path.name for path in media], [path.name for path in texts])
  used = {name for own in pairs.values() for name in own.values()}
  for path in sorted(texts):
    if path.name not in used:
      found.add(kinds.ORPHANS if path.suffix.lower() == ".txt" or walk.broken(path) else kinds.OTHER, walk.name(path))
  items: dict[Path, Sequence[Item] | Unit] = {}
  stems = {path.stem for path in tars}
  for path in files:
    name = walk.name(path)
    if path in tars:
      items[path] = Unit(TAR, path, name, found.next_rank())
    elif path in media:
      captions = {end: directory / own for end, own in pairs[path.name].items()}
      items[path] = list(_clip(path, name, captions, tables.take(name), walk))
    elif path.suffix.lower() == ".parquet" and not walk.broken(path):
      items[path] = Unit(TABLE, path, name, found.next_rank(), path.stem in stems)
    elif path not in texts:
      found.add(_kind(path, walk), name)
  return items


def _clip(path: Path, name: str, captions: Mapping[str, Path], rows: list[Item], walk: "_Walk") -> Iterator[Item]:
  """Yield the items of a clip: one, or each row that a table has of it."""
  problem = f"it is a link to {os.readlink(path)}, which does not exist" if walk.broken(path) else ""
  for caption in captions.values():
    if walk.broken(caption):
      problem = problem or f"its caption {caption.name} is a link to {os.readlink(caption)}, which does not exist"
    elif walk.leads_out(caption) and caption.resolve().parent != path.resolve().parent:
      problem = problem or f"its caption {caption.name} is a link that leads out of the source"
  fields = {end: Piece(caption) for end, caption in captions.items()}
  times = (row.fields.get(end) for row in rows for end in ("start", "end"))
  has_scenes = any(time != "" and not is_missing(time) for time in times)
  for number, row in enumerate(rows or [Item(name, None, {})], 1):
    why = problem or row.problem
    values = {field: value for field, value in row.fields.items() if field != "file_name"}
    label = f"{name}#{number}" if number > 1 and has_scenes else name
    yield Item(label, None if why else Piece(path), {} if why else values | fields, why)


def _is_media(path: Path, walk: "_Walk") -> bool:
  if path.suffix.lower() in MEDIA:
    return True
  return path.suffix.lower() not in (".csv", ".jsonl", ".parquet") and looks_like_media(walk.head(path) or b"")


def _kind(path: Path, walk: "_Walk") -> str:
  head = walk.head(path)
  if head is None:
    return kinds.BROKEN if walk.broken(path) else kinds.CLOSED
  if path.suffix.lower() in (".csv", ".jsonl") or head.startswith(b"PAR1"):
    return kinds.TABLES
  return kinds.ARCHIVES if head.startswith(_ARCHIVES) else kinds.OTHER


def _key(name: str) -> str:
  return unicodedata.normalize("NFC", name)


class _Entry(NamedTuple):
  """What is in a folder.

  Attributes:
    path: of it.
    is_folder: whether it is one that is entered.
    leads: whether a link leads somewhere; None if it is no link.
  """

  path: Path
  is_folder: bool
  leads: bool | None = None


class _Walk:
  """Goes through a folder, first to see which links to folders to follow.

  Args:
    folder: the folder.
    found: is told of hidden files and of what is no file.
    without: folder that is passed over.

  Attributes:
    folder: the folder.
    problems: an item for each folder that can't be read.
    links: those in the folder that is looked at, and whether they lead somewhere.
  """

  def __init__(self, folder: Path, found: Ranked, without: Path | None = None):
    self.folder, self._found = folder, found.first
    self._root = folder.resolve()
    real = without.resolve() if without else self._root
    self._without = folder / real.relative_to(self._root) if self._root in real.parents else None
    self.links: dict[Path, bool] = {}
    self._followed: set[Path] = set()  # Links to folders.
    self._seen = [self._root]  # Folders whose content is in the source.
    self.problems: list[Item] = []
    if not isinstance(folder, RemotePath):
      self._enter(folder)

  def name(self, path: Path) -> str:
    """Return the path within the folder."""
    return path.relative_to(self.folder).as_posix()

  def broken(self, path: Path) -> bool:
    """Return whether a path is a link that leads nowhere."""
    return not self.links.get(path, True)

  def leads_out(self, path: Path) -> bool:
    """Return whether a path is a link to something that is not in the source."""
    return path in self.links and not path.resolve().is_relative_to(self._root)

  def head(self, path: Path) -> bytes | None:
    """Return the beginning of a file; None if it can't be read."""
    if self.broken(path):
      return None
    if isinstance(path, RemotePath):
      return path.read_part(0, HEAD)
    try:
      with path.open("rb") as file:
        return file.read(HEAD)
    except PermissionError:
      return None

  def entries(self, folder: Path) -> list[_Entry]:
    """Return the files in a folder and the folders that are entered, in the order of their names."""
    if isinstance(folder, RemotePath):  # Which has no links.
      found = [_Entry(path, is_folder) for path, is_folder in folder.entries() if not self._is_hidden(path)]
      return sorted(found)
    with contextlib.suppress(PermissionError):  # It is one of the problems.
      return [entry for entry in map(self._entry, _scan(folder)) if entry is not None]
    return []

  def _entry(self, entry: os.DirEntry) -> _Entry | None:
    path = Path(entry.path)
    if entry.name.startswith(".") or path == self._without:
      return None
    if not entry.is_symlink():
      is_folder = entry.is_dir()
      return _Entry(path, is_folder) if is_folder or entry.is_file() else None
    if path in self._followed:
      return _Entry(path, True)
    if not _leads(entry):
      return _Entry(path, False, False)
    return _Entry(path, False, True) if entry.is_file() else None

  def _is_hidden(self, path: Path) -> bool:
    """Return whether a path is passed over: the name is that of a hidden file, which is counted."""
    if path == self._without:
      return True
    if not path.name.startswith("."):
      return False
    self._found.add(kinds.TWINS if path.name.startswith("._") else kinds.HIDDEN, self.name(path))
    return True

  def _enter(self, folder: Path) -> None:
    try:
      entries = _scan(folder)
    except PermissionError as error:
      if folder == self.folder:
        raise
      self.problems.append(Item(self.name(folder), None, {}, f"the folder can't be read: {error.strerror}"))
      return
    later = []  # Links to folders, so that what is in the source itself has its own name.
    for entry in entries:
      path = folder / entry.name
      if self._is_hidden(path) or entry.is_symlink() and not _leads(entry):
        continue
      if entry.is_dir():
        later.append(path) if entry.is_symlink() else self._enter(path)
      elif not entry.is_file():
        self._found.add(kinds.SPECIAL, self.name(path))
    for path in later:
      real = path.resolve()
      if any(real.is_relative_to(seen) or seen.is_relative_to(real) for seen in self._seen):
        self._found.add(kinds.BACK, self.name(path))
      else:
        self._seen.append(real)
        self._followed.add(path)
        self._enter(path)


def _scan(folder: Path) -> list[os.DirEntry]:
  return sorted(os.scandir(folder), key=lambda entry: entry.name)


def _leads(link: os.DirEntry) -> bool:
  """Return whether a link leads somewhere: not to nothing, to itself, or where we may not look."""
  return os.path.exists(link)
