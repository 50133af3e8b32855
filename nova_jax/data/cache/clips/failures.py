"""Failures of storage while items are read, told from faults of the items themselves.

An item that can't be used is read once more, byte by byte. If that fails, it is lost: by its own fault if nobody could
read it when the source was listed, else perhaps because its storage fails.
Invariant: one lost item never ends a build, and a source that is gone never counts as items that can't be used.
"""

import dataclasses
import errno
import os
import stat
from pathlib import Path
from typing import Any

from nova_jax.config import CacheConfig
from nova_jax.data.cache.clips.preprocess import Outcome, Rejected, prepare
from nova_jax.data.cache.items.item import Cell, Example, Item, Piece
from nova_jax.storage import RemotePath, as_path, is_remote
from nova_jax.utils.errors import RunFailed
from nova_jax.utils.files import storage_error

_IN_A_ROW = 3  # Lost items that storage must have lost.
_MACHINE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT))  # Never an item's fault.
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Lost:
  """An item that could not be read.

  Attributes:
    rejected: what it is if that is its own fault.
    number: the system's, of the error.
    reason: which file, and what is wrong.
  """

  rejected: Rejected
  number: int
  reason: str


def attempt(item: Item, cfg: CacheConfig, channels: int) -> Outcome | Lost:
  """Prepare an item as `prepare` does; one that can't be read may be `Lost`."""
  outcome = prepare(item, cfg, channels)
  if not isinstance(outcome, Rejected) or item.problem:
    return outcome
  try:
    for value in (item.media, *item.fields.values()):
      _read(value)
  except OSError as error:
    if error.errno is not None:  # Else a library's own, of what the file holds.
      return Lost(outcome, error.errno, f"{error.filename or item.name}: {error.strerror}")
  except Exception:  # A library's, over what the file holds: that is the reason which `outcome` has already.
    pass
  # By now it can be read: what storage refused for a moment deserves another try.
  return prepare(item, cfg, channels) if storage_error(RuntimeError(outcome.reason), "") else outcome


def _read(value: Any) -> None:
  """Read all of what a part of an item names."""
  if isinstance(value, Piece):
    if not stat.S_ISREG(value.path.stat().st_mode):
      return  # A pipe or device would block or never end.
    with value.path.open("rb") as file:
      file.seek(value.start)
      left = value.size
      while (left is None or left > 0) and (chunk := file.read(_CHUNK if left is None else min(_CHUNK, left))):
        left = None if left is None else left - len(chunk)
  elif isinstance(value, (Cell, Example)):
    path = value.path if isinstance(value, Cell) else value.folder / "dataset_info.json"
    path.stat()
    try:
      value.read()
    except RuntimeError as error:
      if found := storage_error(error, path):
        raise found from error
      raise


class Watch:
  """Looks at what becomes of the items of a source, one after the other, and ends a build whose source fails.

  Args:
    source: its path.
  """

  def __init__(self, source: str | Path):
    self._source = str(source)
    self._row = 0

  def judge(self, item: Item, outcome: Outcome | Lost, readable: bool = True) -> tuple[Outcome, bool]:
    """Return what becomes of an item, and whether storage may be to blame for it.

    Args:
      item: of the source.
      outcome: of decoding it.
      readable: whether its files were there and open to us when the source was listed.

    Raises:
      RunFailed: storage fails.
    """
    if not isinstance(outcome, Lost):
      self._row = self._row if item.problem else 0
      return outcome, False
    if outcome.number in _MACHINE:
      hint = "; allow more of them with `ulimit -n`" if outcome.number in (errno.EMFILE, errno.ENFILE) else ""
      raise RunFailed(f"{outcome.reason}{hint}; the cache is not finished, and the same command continues it")
    if not readable:
      return outcome.rejected, False
    self._row += 1
    gone = is_gone(self._source)
    if gone or self._row == _IN_A_ROW:
      what = f"{self._source} is gone" if gone else f"the source can't be read any more, {_IN_A_ROW} items in a row"
      raise RunFailed(
          f"{what} ({outcome.reason}): is it still mounted? The cache is not finished; when the source is back, the "
          "same command continues it")
    return outcome.rejected, True


def is_gone(source: str) -> bool:
  """Whether a source is missing, or an empty folder, as one is that nothing is mounted on any more."""
  try:
    if is_remote(source):
      return not as_path(source).exists()
    with os.scandir(source) as entries:
      return next(entries, None) is None
  except NotADirectoryError:  # A file that is there.
    return False
  except OSError:
    return True


def may_read(path: Path) -> bool:
  """Return whether a file is there and open to us."""
  try:
    if isinstance(path, RemotePath):
      return path.is_listed or path.exists()
    return os.access(path, os.R_OK)
  except ValueError:  # A NUL in the name.
    return False
