"""Sources of clips and stills with captions, as lists of items in a fixed order.

  a folder                 videos and pictures at any depth, each with NAME.txt or NAME.json beside it or in a
                           metadata.jsonl; tars and Parquet tables in it
  *.csv, *.jsonl, *.json, *.parquet  a row an item: a path relative to the table, or bytes (Parquet), a caption, and if
                           it is a scene of a longer video, its start and end in seconds
  *.tar                    WebDataset: members NAME.mp4, NAME.txt, NAME.json make an item
  a TFDS dataset           the folder of a prepared version, optionally with :SPLIT; stored as ArrayRecord

Invariant: the list depends on the source alone, and every item of it ends in the cache, skipped or rejected; what else
the source has is counted.
"""

import dataclasses
import errno
import hashlib
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from nova_jax.config import CacheConfig
from nova_jax.data.cache.folders import MEDIA, folder_items
from nova_jax.data.cache.format import Unused
from nova_jax.data.cache.found import Found
from nova_jax.data.cache.items import Cell, Example, Item, Piece
from nova_jax.data.cache.rows import ENDINGS, table_items
from nova_jax.data.cache.tars import is_tar, tar_items
from nova_jax.storage import RemotePath, as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_holds_runs

_NO_FILE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG))


class Listing(list[Item]):
  """A source's items in their order; `unused` tells what was found beside them and not used."""

  unused: tuple[Unused, ...] = ()


def open_source(source: str, cfg: CacheConfig) -> Listing:
  """List the items of a source.

  Raises:
    UserError: it isn't one, or has none.
  """
  path, split = as_path(source), ""
  if not path.exists() and (parts := source.rpartition(":"))[0] and "/" not in parts[2]:
    path, split = as_path(parts[0]), parts[2]
  expected = f"a folder, {', '.join(ENDINGS)}, .tar or a TFDS dataset"
  if not path.exists():
    raise UserError(f"--source: there is no {source}; expected {expected}")
  found = Found()
  if path.is_dir() and any(path.glob("*.arrow")):
    raise UserError(
        f"--source: {source} is a dataset that Hugging Face's save_to_disk wrote; write it as tables with to_parquet")
  if split or (path / "dataset_info.json").is_file():
    check_holds_runs(path)
    from nova_jax.data.cache.tfds_source import list_examples  # Slow to import, and only this source needs it.

    items = list_examples(path, split, cfg)
  elif path.is_dir():
    items = folder_items(path, cfg, found)
  elif is_tar(path):
    items = tar_items(path, path.name, found, MEDIA)
  elif path.suffix.lower() in ENDINGS:
    items = table_items(path, cfg)
  else:
    raise UserError(f"--source: {source} is none of {expected}")
  listing = Listing(_unlike(items))
  listing.unused = found.unused()
  if not listing:
    if path.suffix.lower() in ENDINGS:
      raise UserError(f"--source: {source} has no rows")
    beside = "".join(f"; it has {unused}" for unused in listing.unused)
    raise UserError(f"--source: {source} has no videos or pictures{beside}")
  return listing


def digest(items: Iterable[Item]) -> str:
  """Return the SHA-256 of what a list of items says, by which a changed source shows: names, texts, sizes of files."""
  found = hashlib.sha256()
  for item in items:
    fields = sorted((name, _brief(value)) for name, value in item.fields.items())
    found.update(repr((item.name, _brief(item.media), fields, item.problem)).encode("utf-8", "backslashreplace"))
  return found.hexdigest()


def _brief(value: Any) -> Any:
  """Return the size of a file, or a value as it is; nothing says where the source lies."""
  if isinstance(value, (Cell, Example)):
    return None
  if not isinstance(value, Piece):
    return repr(value)
  if value.size is not None:
    return value.size
  try:
    if isinstance(value.path, RemotePath):
      return value.path.size
    found = value.path.stat()
  except ValueError:  # A NUL in the name.
    return None
  except OSError as error:
    if error.errno not in _NO_FILE:  # Else storage fails, and nothing is known of the item.
      raise
    return None
  return found.st_size if stat.S_ISREG(found.st_mode) else None


def _unlike(items: Iterable[Item]) -> Iterator[Item]:
  """Say of a second item of one name that it is one."""
  seen: dict[str, int] = {}
  for item in items:
    name = item.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    seen[name] = count = seen.get(name, 0) + 1
    if count == 1:
      yield dataclasses.replace(item, name=name)
    else:
      yield Item(f"{name}#{count}", None, {}, f"the source has {name} before")
