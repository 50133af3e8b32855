"""Sources of clips and stills with captions, as items in a fixed order.

  a folder                 videos and pictures at any depth, each with NAME.txt or NAME.json beside it or in a
                           metadata.jsonl; tars and Parquet tables in it
  *.csv, *.jsonl, *.json, *.parquet  a row an item: a path relative to the table, or bytes (Parquet), a caption, and if
                           it is a scene of a longer video, its start and end in seconds
  *.tar                    WebDataset: members NAME.mp4, NAME.txt, NAME.json make an item
  a TFDS dataset           the folder of a prepared version, optionally with :SPLIT; stored as ArrayRecord

Invariants: the list depends on the source alone, and every item of it ends in the cache, skipped or rejected; what else
the source has is counted. A walk through a source holds little of it at a time.
"""

import errno
import hashlib
import itertools
import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nova_jax.config import CacheConfig
from nova_jax.data.cache.format import Unused
from nova_jax.data.cache.items.item import Cell, Example, Item, Piece
from nova_jax.data.cache.sources import found as found_lib
from nova_jax.data.cache.sources.folders import walk_folder
from nova_jax.data.cache.sources.found import Ranked
from nova_jax.data.cache.sources.tables import ENDINGS, table_items
from nova_jax.data.cache.sources.tars import is_tar
from nova_jax.data.cache.sources.units import TABLE, TAR, Unit, listed, plain
from nova_jax.media.tables import ENDINGS as TEXT_TABLES
from nova_jax.storage import RemotePath, as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_holds_runs, check_regular

_READ = 8 << 20  # Bytes of a table that are read at once.
_NO_FILE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG))


class Source(NamedTuple):
  """A source that is there.

  Attributes:
    given: what was given.
    path: of its folder or file.
    split: of a TFDS dataset; empty if none is named.
    without: folder that is no part of it, since the cache is written there; None if there is none.
  """

  given: str
  path: Path
  split: str
  without: Path | None = None

  @property
  def base(self) -> Path:
    """The folder that names of its files are relative to."""
    return self.path if self.path.is_dir() else self.path.parent

  def fingerprint(self) -> str:
    """Return what tells this source from others, and costs no list of its items.

    That is the split of a dataset, the content of a text table, and of another file its name and size. Folders have one
    in common: hosts may have them in different places.

    Raises:
      UserError: the source is no regular file.
    """
    parts = [self.split]
    if not self.path.is_dir():
      is_text = self.path.suffix.lower() in TEXT_TABLES
      path = check_regular(self.path)
      parts += [_content_digest(path)] if is_text else [path.name, str(size_of(Piece(path)))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

  def walk(self, cfg: CacheConfig, found: Ranked) -> Iterator[Item | Unit]:
    """Yield items, and tars and Parquet tables unread, in their order.

    Args:
      cfg: names the columns of tables.
      found: is told what is not used.

    Raises:
      UserError: a table or dataset can't be read.
      OSError: storage fails.
    """
    if self.split or (self.path / "dataset_info.json").is_file():
      check_holds_runs(self.path)
      from nova_jax.data.cache.sources.tfds_source import (
        list_examples,  # Slow to import, and only this source needs it.
      )

      yield from list_examples(self.path, self.split, cfg)
    elif self.path.is_dir():
      yield from walk_folder(self.path, cfg, found, self.without)
    elif is_tar(self.path):
      yield Unit(TAR, self.path, self.path.name, found.next_rank())
    elif self.path.suffix.lower() == ".parquet":
      yield Unit(TABLE, self.path, "", found.next_rank())
    else:
      yield from map(plain, table_items(self.path, cfg))

  def check_any(self, count: int, unused: Iterable[Unused]) -> None:
    """Raise a UserError if there are no items."""
    if count:
      return
    if self.path.suffix.lower() in ENDINGS:
      raise UserError(f"--source: {self.given} has no rows")
    beside = "".join(f"; it has {each}" for each in unused)
    raise UserError(f"--source: {self.given} has no videos or pictures{beside}")


def find_source(given: str) -> Source:
  """Find a source, and read nothing of it.

  Raises:
    UserError: it isn't one.
  """
  path, split = as_path(given), ""
  if not path.exists() and (parts := given.rpartition(":"))[0] and "/" not in parts[2]:
    path, split = as_path(parts[0]), parts[2]
  expected = f"a folder, {', '.join(ENDINGS)}, .tar or a TFDS dataset"
  if not path.exists():
    raise UserError(f"--source: there is no {given}; expected {expected}")
  if path.is_dir():
    if next(path.glob("*.arrow"), None) is not None:
      raise UserError(
          f"--source: {given} is a dataset that Hugging Face's save_to_disk wrote; write it as tables with to_parquet")
  elif not split and not is_tar(path) and path.suffix.lower() not in ENDINGS:
    raise UserError(f"--source: {given} is none of {expected}")
  return Source(given, path, split)


def _content_digest(path: Path) -> str:
  """Return the SHA-256 of a text table, which may lie in a bucket."""
  found = hashlib.sha256()
  with path.open("rb") as file:
    while content := file.read(_READ):
      found.update(content)
  return found.hexdigest()


class Listing(list[Item]):
  """A source's items in their order; `unused` tells what was found beside them and not used."""

  unused: tuple[Unused, ...] = ()


def open_source(given: str, cfg: CacheConfig) -> Listing:
  """List the items of a source that is small enough to be held in memory.

  Raises:
    UserError: it isn't one, or has none.
  """
  source, found, ranked = find_source(given), Ranked(), []
  listing = Listing(listed(source.walk(cfg, found), cfg, ranked))
  listing.unused = found_lib.merged(found.ranked() + ranked)
  source.check_any(len(listing), listing.unused)
  return listing


def survey(source: Source, cfg: CacheConfig) -> tuple[str, int]:
  """Return the digest of a source's items and their number, without holding them.

  Raises:
    UserError: it can't be read, or has no items.
  """
  counter, found, ranked = itertools.count(), Ranked(), []
  found_digest = digest(item for item, _ in zip(listed(source.walk(cfg, found), cfg, ranked), counter, strict=False))
  count = next(counter)
  source.check_any(count, found_lib.merged(found.ranked() + ranked))
  return found_digest, count


def digest(items: Iterable[Item]) -> str:
  """Return the SHA-256 of what items say, by which a changed source shows: names, texts, sizes of files."""
  return digest_of(map(line_of, items))


def digest_of(lines: Iterable[str]) -> str:
  """Return the same of the lines of `line_of`."""
  found = hashlib.sha256()
  for line in lines:
    found.update(line.encode("utf-8", "backslashreplace"))
  return found.hexdigest()


def line_of(item: Item) -> str:
  """Return what an item says of itself; nothing of it says where the source lies."""
  fields = sorted((name, _brief(value)) for name, value in item.fields.items())
  return repr((item.name, _brief(item.media), fields, item.problem))


def _brief(value: Any) -> Any:
  """Return the size of a file, or a value as it is."""
  if isinstance(value, (Cell, Example)):
    return None
  return size_of(value) if isinstance(value, Piece) else repr(value)


def size_of(piece: Piece) -> int | None:
  """Return the number of bytes of a piece; None if there is no such file.

  Raises:
    OSError: storage fails, and nothing is known of the item.
  """
  if piece.size is not None:
    return piece.size
  try:
    if isinstance(piece.path, RemotePath):
      return piece.path.size
    found = piece.path.stat()
  except ValueError:  # A NUL in the name.
    return None
  except OSError as error:
    if error.errno not in _NO_FILE:
      raise
    return None
  return found.st_size if stat.S_ISREG(found.st_mode) else None
