"""The path of an object or a folder in a bucket, with the methods of `pathlib.Path`."""

import contextlib
import errno
import fnmatch
import io
import os
import pathlib
import posixpath
import stat
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from nova_jax.storage.addresses import filesystem, is_collapsed, is_remote, scheme_of, why_not
from nova_jax.storage.failures import telling
from nova_jax.storage.parts import PartReader

_made: set[str] = set()  # Folders that this process made; a bucket has none without objects.
_AHEAD = 1 << 17  # Bytes that are read at once of an object that is opened.


def as_path(path: str | os.PathLike) -> pathlib.Path:
  """Return the path of a local file or of an object in a bucket.

  Raises:
    ValueError: an address that can't be used, for the reason of `why_not`, or a path that was one before.
  """
  text = os.fspath(path)
  if not is_remote(text):
    if is_collapsed(text):
      raise ValueError(f"{text} was the address of a bucket before it became a local path")
    return pathlib.Path(path)
  if isinstance(path, RemotePath):
    return path
  if reason := why_not(text):
    raise ValueError(f"{text}: {reason}")
  return RemotePath(text)


def join(base: str | os.PathLike, path: str | os.PathLike) -> pathlib.Path:
  """Return the path that `path` stands for within a folder: an address or an absolute path stands for itself."""
  if is_remote(path) or os.path.isabs(path):
    return as_path(path)
  joined = as_path(base) / path
  if isinstance(joined, RemotePath) and ".." in joined.parts:  # Which means nothing to a bucket.
    return RemotePath(f"{scheme_of(joined)}://{posixpath.normpath('/'.join(joined.parts[2:]))}")
  return joined


class Stat(NamedTuple):
  """What is known of an object, under the names of `os.stat_result` and of `epath`."""

  st_mode: int
  st_size: int
  st_mtime: float
  st_mtime_ns: int

  @property
  def length(self) -> int:
    return self.st_size

  @property
  def is_directory(self) -> bool:
    return stat.S_ISDIR(self.st_mode)

  @property
  def mtime(self) -> int:
    return int(self.st_mtime)


class RemotePath(epath.Path("gs://").__class__, pathlib.PosixPath):  # ty: ignore[unsupported-base] (of no public name)
  """The path of an object or a folder in a bucket.

  Attributes:
    known_size: bytes, as the listing said that this path is from.
  """

  known_size: int

  if sys.version_info < (3, 12):

    def __new__(cls, *parts: str | os.PathLike) -> "RemotePath":
      return super().__new__(cls, *_rooted(parts))

  else:

    def __init__(self, *parts: str | os.PathLike) -> None:
      super().__init__(*_rooted(parts))

  def __fspath__(self) -> str:
    if len(self.parts) < 2:  # The last one of `parents`.
      return "/"
    return f"{self.parts[1]}://{'/'.join(self.parts[2:])}"

  __str__ = __fspath__

  def __reduce__(self):
    return _listed_path, (str(self), getattr(self, "known_size", None))

  @property
  def is_listed(self) -> bool:
    """Whether a listing had this path."""
    return hasattr(self, "known_size")

  @property
  def size(self) -> int:
    """Number of bytes: as its listing said, or as the bucket says now."""
    return self.known_size if self.is_listed else self.stat().st_size

  @property
  def _filesystem(self) -> Any:
    return filesystem(self)

  @property
  def is_bucket(self) -> bool:
    """Whether this is a bucket itself."""
    return len(self.parts) < 4

  def _info(self) -> dict[str, Any] | None:
    if self.is_bucket:
      return {"type": "directory", "size": 0}
    with telling(self), contextlib.suppress(FileNotFoundError):  # The answer is None.
      return self._filesystem.info(str(self))
    return None

  def stat(self, *, follow_symlinks: bool = True) -> Stat:
    info = self._info()
    if info is None:
      raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
    time = info.get("mtime") or info.get("LastModified") or info.get("created")
    seconds = time.timestamp() if time else 0.0
    mode = stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG
    return Stat(mode, info["size"] or 0, seconds, int(seconds * 1e6) * 1000)

  lstat = stat

  def exists(self, **_) -> bool:
    return self._info() is not None

  def is_dir(self, **_) -> bool:
    return (self._info() or {}).get("type") == "directory"

  def is_file(self, **_) -> bool:
    return (self._info() or {}).get("type") == "file"

  def is_symlink(self) -> bool:
    return False

  def absolute(self) -> "RemotePath":
    return self

  def resolve(self, strict: bool = False) -> "RemotePath":
    return self

  def expanduser(self) -> "RemotePath":
    return self

  def relative_to(self, *other) -> pathlib.PurePosixPath:
    return pathlib.PurePosixPath(*self.parts).relative_to(pathlib.PurePosixPath(*RemotePath(*other).parts))

  def is_relative_to(self, *other) -> bool:
    return is_remote(other[0]) and pathlib.PurePosixPath(*self.parts).is_relative_to(
        pathlib.PurePosixPath(*RemotePath(*other).parts))

  def iterdir(self) -> Iterator["RemotePath"]:
    yield from (path for path, _ in self.entries())

  def entries(self) -> Iterator[tuple["RemotePath", bool]]:
    """Yield what is in a folder by name, and whether each is a folder itself."""
    try:
      with telling(self):
        found = self._filesystem.ls(str(self), detail=True)
    except FileNotFoundError:
      if str(self) not in _made:
        raise
      found = []
    for info in sorted(found, key=lambda info: info["name"]):
      if (path := self._listed(info)) != self:
        yield path, info["type"] == "directory"

  def named(self, prefix: str) -> Iterator["RemotePath"]:
    """Yield the objects in a folder whose names begin with a prefix; Google's buckets are asked for no others."""
    with telling(self), contextlib.suppress(FileNotFoundError):  # A folder that is not there has none.
      own = {"prefix": prefix} if scheme_of(self) == "gs" else {}
      for info in self._filesystem.find(str(self), maxdepth=None if own else 1, detail=True, **own).values():
        if (path := self._listed(info)).parent == self and path.name.startswith(prefix):
          yield path

  def _listed(self, info: dict[str, Any]) -> "RemotePath":
    """Return the path that an entry of a listing is about."""
    return _listed_path(f"{scheme_of(self)}://{info['name'].strip('/')}", info["size"] or 0)

  def rglob(self, pattern: str) -> Iterator["RemotePath"]:
    """Yield the objects below, whatever their depth, whose last name fits a pattern."""
    with telling(self):
      found = self._filesystem.find(str(self), detail=True)
    yield from (path for info in found.values() if fnmatch.fnmatchcase((path := self._listed(info)).name, pattern))

  def glob(self, pattern: str) -> Iterator["RemotePath"]:
    first, _, rest = pattern.partition("/")
    if first == "**":
      yield from self.rglob(rest)
    elif rest:
      yield from (found for folder in self.glob(first) if folder.is_dir() for found in folder.glob(rest))
    else:
      with contextlib.suppress(FileNotFoundError):  # As pathlib does for a folder that is not there.
        yield from (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, first))

  def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
    """Remember that a folder without objects is empty, rather than missing, when this process lists it."""
    if not exist_ok and self.exists():
      raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
    _made.add(str(self))

  def open(self, mode: str = "r", buffering: int = -1, encoding=None, errors=None, newline=None):
    """Open for reading; what is written goes through `write_bytes`, `write_text` or `upload`."""
    if mode not in ("r", "rt", "rb"):
      raise io.UnsupportedOperation(f"{self}: objects of a bucket are written whole, not opened with mode {mode!r}")
    found = self.stat()
    if found.is_directory:
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
    read_part = _listed_path(str(self), found.st_size).read_part
    file = io.BufferedReader(PartReader(found.st_size, read_part), _AHEAD)
    return file if mode == "rb" else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

  def read_bytes(self) -> bytes:
    with telling(self):
      return self._filesystem.cat_file(str(self))

  def read_part(self, start: int, size: int) -> bytes:
    """Return bytes from a place on, as many as are asked for or are there."""
    end = min(start + size, self.size)
    if start >= end:
      return b""
    with telling(self):
      return self._filesystem.cat_file(str(self), start, end)

  def read_start(self, size: int) -> bytes:
    """Return the first bytes of the object as it is now, whatever its listing said; all if there are no more."""
    if not self.size:  # An empty object has no part to ask for.
      return b""
    with telling(self):
      return self._filesystem.cat_file(str(self), 0, size)

  def read_text(self, encoding=None, errors=None) -> str:
    return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

  def write_bytes(self, data: bytes) -> int:
    with telling(self):
      self._filesystem.pipe_file(str(self), bytes(data))
    return len(data)

  def write_text(self, data: str, encoding=None, errors=None, newline=None) -> int:
    return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

  def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
    if not self.exists():
      self.write_bytes(b"")

  def unlink(self, missing_ok: bool = False) -> None:
    with telling(self), contextlib.suppress(FileNotFoundError) if missing_ok else contextlib.nullcontext():
      self._filesystem.rm_file(str(self))

  def rmdir(self) -> None:
    """Do nothing: a folder goes with its last object."""

  def rmtree(self, missing_ok: bool = False) -> None:
    with telling(self), contextlib.suppress(FileNotFoundError) if missing_ok else contextlib.nullcontext():
      self._filesystem.rm(str(self), recursive=True)

  def rename(self, target) -> "RemotePath":
    """Copy what is here, without sending it over the network, then remove it; the last copy is that of this path."""
    target = RemotePath(target)
    with telling(self):
      self._filesystem.mv(str(self), str(target), recursive=self.is_dir())
    return target

  replace = rename

  def copy(self, dst, overwrite: bool = False) -> "RemotePath":
    with telling(self):
      self._filesystem.cp_file(str(self), os.fspath(dst))
    return RemotePath(dst)


def _listed_path(address: str, size: int | None) -> RemotePath:
  """Return a path whose size is known from a listing."""
  path = RemotePath(address)
  if size is not None:
    path.known_size = size
  return path


def _rooted(parts: tuple[str | os.PathLike, ...]) -> tuple[str | os.PathLike, ...]:
  """Return the parts of a path below the folder that stands for a kind of bucket; etils knows not all kinds."""
  first = os.fspath(parts[0])
  if not is_remote(first):
    return parts
  scheme, _, rest = first.partition("://")
  return (f"/{scheme}/{rest}", *parts[1:])
