"""Folders as sources: videos and pictures at any depth with captions beside them, tars, and tables.

  NAME.mp4 with NAME.txt or NAME.json   see `sidecars`; what has another ending and begins like media is an item too
  metadata.jsonl, .csv or .parquet      captions of files beside it, as Hugging Face has them: `file_name` and `text`
  *.tar, also compressed                WebDataset: see `tars`
  *.parquet                             rows of a data set, if it has a column of paths or media: see `rows`

Links are followed, to folders once. A caption that is a link out of the source is read only if its clip is a link to
the same folder: else a source from a stranger could ask for any file of the machine.
Invariant: each file is an item, belongs to one, or is counted as not used.
"""

import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from nova_jax.config import CacheConfig
from nova_jax.data.cache import found as kinds
from nova_jax.data.cache.found import Found
from nova_jax.data.cache.items import Item, Piece
from nova_jax.data.cache.rows import read_metadata, table_items
from nova_jax.data.cache.sidecars import TEXTS, pair
from nova_jax.data.cache.tars import is_tar, tar_items
from nova_jax.media import parquet
from nova_jax.media.signatures import HEAD, looks_like_media
from nova_jax.media.tables import is_missing
from nova_jax.storage import RemotePath

_VIDEOS = ".avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv .3gp".split()
_PICTURES = ".bmp .jpeg .jpg .png .tif .tiff .webp".split()
_SOUNDS = ".aac .flac .m4a .mp3 .ogg .wav".split()  # So that one in place of a video is named, not passed over.
MEDIA = frozenset(_VIDEOS + _PICTURES + _SOUNDS)  # Items whatever they hold, so that a damaged one is named.
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_ARCHIVES = (b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c", b"Rar!")


def folder_items(folder: Path, cfg: CacheConfig, found: Found) -> list[Item]:
  """List the items of a folder.

  Args:
    folder: the source.
    cfg: names the columns of tables.
    found: is told what is not used.

  Raises:
    UserError: a table of captions can't be read.
    OSError: storage fails, or the folder itself can't be read.
  """
  walk = _Walk(folder, found)
  items = list(walk.problems)
  tables: dict[str, list[Item]] = {}  # Captions by path.
  for path in walk.files:
    if path.name in _METADATA:
      rows = read_metadata(path, folder, cfg)
      if rows is None:
        found.add(kinds.TABLES, walk.name(path))
      for name, item in rows or ():
        tables.setdefault(_key(name), []).append(item)
  own: dict[Path, list[Item]] = {}
  for directory, files in walk.folders.items():
    own |= _beside(directory, [path for path in files if path.name not in _METADATA], walk, cfg, found, tables)
  items += [item for path in walk.files for item in own.get(path, ())]
  for rows in tables.values():  # Whose files are not there.
    items += [Item(row.name, None, {}, row.problem or f"there is no {row.fields['file_name']!r}") for row in rows]
  return items


def _beside(
    directory: Path, files: list[Path], walk: "_Walk", cfg: CacheConfig, found: Found, tables: dict[str, list[Item]]
) -> dict[Path, list[Item]]:
  """Return the items among the files of one folder, by file."""
  texts = {path for path in files if path.suffix.lower() in TEXTS}
  tars = {path for path in files if is_tar(path) and not walk.broken(path)}
  media = {path for path in files if path not in texts and path not in tars and _is_media(path, walk)}
  pairs = pair([path.name for path in media], [path.name for path in texts])
  used = {name for own in pairs.values() for name in own.values()}
  for path in sorted(texts):
    if path.name not in used:
      found.add(kinds.ORPHANS if path.suffix.lower() == ".txt" or walk.broken(path) else kinds.OTHER, walk.name(path))
  items: dict[Path, list[Item]] = {}
  stems = {path.stem for path in tars}
  for path in files:
    name = walk.name(path)
    if path in tars:
      items[path] = tar_items(path, name, found, MEDIA)
    elif path in media:
      captions = {end: directory / own for end, own in pairs[path.name].items()}
      items[path] = list(_clip(path, name, captions, tables.pop(_key(name), []), walk))
    elif path.suffix.lower() == ".parquet" and not walk.broken(path):
      items[path] = _parquet(path, name, stems, cfg, found)
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


def _parquet(path: Path, name: str, tars: set[str], cfg: CacheConfig, found: Found) -> list[Item]:
  """Return the items of a table in a folder: its rows, or one that says what is wrong with it."""
  try:
    # Tools that make tars write what they know of them beside them.
    if path.stem not in tars and cfg.path_field in parquet.column_names(path):
      return table_items(path, cfg, f"{name}/")
  except ValueError as error:
    return [Item(name, None, {}, str(error).replace(f"{path.parent}/", ""))]
  found.add(kinds.TABLES, name)
  return []


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


class _Walk:
  """Goes through a folder.

  Args:
    folder: the folder.
    found: is told of hidden files and of what is no file.

  Attributes:
    files: in the order of their paths.
    folders: the same by folder.
    problems: an item for each folder that can't be read.
  """

  def __init__(self, folder: Path, found: Found):
    self._folder, self._found = folder, found
    self._root = folder.resolve()
    self._links: dict[Path, bool] = {}  # Whether one leads somewhere.
    self._seen = [self._root]  # Folders whose content is in the source.
    self.problems: list[Item] = []
    self.files: list[Path] = []
    self._list(folder) if isinstance(folder, RemotePath) else self._enter(folder)
    self.files.sort()
    self.folders: dict[Path, list[Path]] = {}
    for path in self.files:
      self.folders.setdefault(path.parent, []).append(path)

  def name(self, path: Path) -> str:
    """Return the path within the folder."""
    return path.relative_to(self._folder).as_posix()

  def broken(self, path: Path) -> bool:
    """Return whether a path is a link that leads nowhere."""
    return not self._links.get(path, True)

  def leads_out(self, path: Path) -> bool:
    """Return whether a path is a link to something that is not in the source."""
    return path in self._links and not path.resolve().is_relative_to(self._root)

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

  def _list(self, folder: RemotePath) -> None:
    """Take all objects of a folder in a bucket, which has no links, from one listing."""
    hidden: set[str] = set()
    for path in folder.rglob("*"):
      parts = path.relative_to(folder).parts
      first = next((i for i, part in enumerate(parts, 1) if part.startswith(".")), None)
      if first is None:
        self.files.append(path)
      elif (name := "/".join(parts[:first])) not in hidden:
        hidden.add(name)
        self._found.add(kinds.TWINS if parts[first - 1].startswith("._") else kinds.HIDDEN, name)

  def _enter(self, folder: Path) -> None:
    try:
      entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError as error:
      if folder == self._folder:
        raise
      self.problems.append(Item(self.name(folder), None, {}, f"the folder can't be read: {error.strerror}"))
      return
    later = []  # Links to folders, so that what is in the source itself has its own name.
    for entry in entries:
      path = folder / entry.name
      if entry.name.startswith("."):
        self._found.add(kinds.TWINS if entry.name.startswith("._") else kinds.HIDDEN, self.name(path))
      elif entry.is_symlink():
        try:
          entry.stat()
        except OSError:  # It leads nowhere, to itself, or where we may not look.
          self._links[path] = False
          self.files.append(path)
          continue
        self._links[path] = True
        later.append(path) if entry.is_dir() else self._add(path, entry.is_file())
      elif entry.is_dir():
        self._enter(path)
      else:
        self._add(path, entry.is_file())
    for path in later:
      real = path.resolve()
      if any(real.is_relative_to(seen) or seen.is_relative_to(real) for seen in self._seen):
        self._found.add(kinds.BACK, self.name(path))
      else:
        self._seen.append(real)
        self._enter(path)

  def _add(self, path: Path, is_file: bool) -> None:
    self.files.append(path) if is_file else self._found.add(kinds.SPECIAL, self.name(path))
