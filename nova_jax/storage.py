"""Where files lie: on this machine, or in a Google Cloud Storage bucket, whose address begins with gs://.

`as_path` returns a `pathlib.Path` of either kind. A path in a bucket answers the same methods, with these differences:

- An object appears whole when its upload ends, so a single file needs no temporary name. There is no appending, and no
  renaming of folders at once: a folder is complete when the object that says so is there, which is written last.
- There are no empty folders, links, devices or locks. `write_if` is what locks are built from.

Invariants: failures of a bucket are `OSError`s with a number and the address, like those of a disk; what may pass is
tried again for half a minute before. No address ever becomes the name of a local folder.
"""

import contextlib
import errno
import fnmatch
import functools
import hashlib
import io
import logging
import os
import pathlib
import re
import stat
import tempfile
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from etils import epath

_ADDRESS = re.compile(r"(gs|gcs|s3|az|abfs|hf|memory)://")
# What `pathlib.Path` makes of an address, and of a path in a bucket.
_COLLAPSED = re.compile(r"(gs|gcs|s3|az|abfs|hf|memory):/|/gs/")
_LONGEST = 200  # Characters of a server's message that are told.


def is_remote(path: str | os.PathLike) -> bool:
  """Return whether a path is an address in a bucket."""
  return _ADDRESS.match(os.fspath(path)) is not None


def as_path(path: str | os.PathLike) -> pathlib.Path:
  """Return the path of a local file or of an object in a bucket.

  Raises:
    UserError: an address that can't be used, for the reason of `why_not`.
  """
  text = os.fspath(path)
  if not is_remote(text):
    if _COLLAPSED.match(text) and not os.path.isdir(text[: (text + "/").index("/", 1)]):
      raise ValueError(f"{text} was the address of a bucket before it became a local path")
    return pathlib.Path(path)
  if isinstance(path, RemotePath):
    return path
  if reason := why_not(text):
    raise ValueError(f"{text}: {reason}")
  return RemotePath(text)


def why_not(address: str) -> str | None:
  """Return why an address in a bucket can't be used on this machine; None if it can."""
  if not address.startswith("gs://"):
    return "only gs:// addresses can be used"
  if not address.removeprefix("gs://").strip("/"):
    return "expected gs://BUCKET/FOLDER"
  try:
    import gcsfs  # noqa: F401
  except ImportError:
    return "buckets need the package gcsfs: pip install 'nova_jax[gcs]'"
  return None


def join(base: str | os.PathLike, path: str | os.PathLike) -> pathlib.Path:
  """Return the path that `path` stands for within a folder: an address or an absolute path stands for itself."""
  return as_path(path) if is_remote(path) or os.path.isabs(path) else as_path(base) / path


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


def _filesystem() -> Any:
  """Return the file system of all buckets; fsspec keeps one a process."""
  import fsspec

  # Support of zonal buckets asks another service, of every bucket, for which few accounts have the permission.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # It prints the traceback of each error that it raises.
  return fsspec.filesystem("gs", use_listings_cache=False)  # Other processes write, too.


class RemotePath(epath.Path("gs://").__class__, pathlib.PosixPath):  # ty: ignore[unsupported-base] (of no public name)
  """The path of an object or a folder in a bucket.

  Attributes:
    known_size: bytes, as the listing said that this path is from.
  """

  known_size: int

  @property
  def is_bucket(self) -> bool:
    """Whether this is a bucket itself."""
    return len(self.parts) < 4

  def _info(self) -> dict[str, Any] | None:
    if self.is_bucket:
      return {"type": "directory", "size": 0}
    with telling(self), contextlib.suppress(FileNotFoundError):
      return _filesystem().info(str(self))
    return None

  def stat(self, *, follow_symlinks: bool = True) -> Stat:
    info = self._info()
    if info is None:
      raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
    time = info.get("mtime")
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
    with telling(self):
      found = _filesystem().ls(str(self), detail=True)
    own = str(self).removeprefix("gs://")
    for info in sorted(found, key=lambda info: info["name"]):
      if info["name"].rstrip("/") != own:
        path = RemotePath(f"gs://{info['name']}")
        path.known_size = info["size"] or 0
        yield path

  def rglob(self, pattern: str) -> Iterator["RemotePath"]:
    """Yield the objects below, whatever their depth, whose last name fits a pattern."""
    with telling(self):
      names = _filesystem().find(str(self))
    yield from (RemotePath(f"gs://{name}") for name in names if fnmatch.fnmatchcase(name.rpartition("/")[2], pattern))

  def glob(self, pattern: str) -> Iterator["RemotePath"]:
    first, _, rest = pattern.partition("/")
    if first == "**":
      yield from self.rglob(rest)
    elif rest:
      yield from (found for folder in self.glob(first) if folder.is_dir() for found in folder.glob(rest))
    else:
      with contextlib.suppress(FileNotFoundError):
        yield from (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, first))

  def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
    """Do nothing: a folder is there as soon as it holds an object."""
    if not exist_ok and self.exists():
      raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))

  def open(self, mode: str = "r", buffering: int = -1, encoding=None, errors=None, newline=None):
    """Open for reading; what is written goes through `write_bytes`, `write_text` or `upload`."""
    if mode not in ("r", "rt", "rb"):
      raise io.UnsupportedOperation(f"{self}: objects of a bucket are written whole, not opened with mode {mode!r}")
    with telling(self):
      file = _filesystem().open(str(self), "rb")
    return file if mode == "rb" else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

  def read_bytes(self) -> bytes:
    with telling(self):
      return _filesystem().cat_file(str(self))

  def read_text(self, encoding=None, errors=None) -> str:
    return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

  def write_bytes(self, data: bytes) -> int:
    with telling(self):
      _filesystem().pipe_file(str(self), bytes(data))
    return len(data)

  def write_text(self, data: str, encoding=None, errors=None, newline=None) -> int:
    return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

  def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
    if not self.exists():
      self.write_bytes(b"")

  def unlink(self, missing_ok: bool = False) -> None:
    with telling(self), contextlib.suppress(FileNotFoundError) if missing_ok else contextlib.nullcontext():
      _filesystem().rm_file(str(self))

  def rmdir(self) -> None:
    """Do nothing: a folder goes with its last object."""

  def rmtree(self, missing_ok: bool = False) -> None:
    with telling(self), contextlib.suppress(FileNotFoundError) if missing_ok else contextlib.nullcontext():
      _filesystem().rm(str(self), recursive=True)

  def rename(self, target) -> "RemotePath":
    """Copy what is here, without sending it over the network, then remove it; the last copy is that of this path."""
    target = RemotePath(target)
    with telling(self):
      _filesystem().mv(str(self), str(target), recursive=self.is_dir())
    return target

  replace = rename

  def copy(self, dst, overwrite: bool = False) -> "RemotePath":
    with telling(self):
      _filesystem().cp_file(str(self), os.fspath(dst))
    return RemotePath(dst)


def upload(local: pathlib.Path, remote: pathlib.Path) -> None:
  """Copy a local file to an object, which appears whole."""
  with telling(remote):
    _filesystem().put_file(str(local), str(remote))


def download(remote: pathlib.Path, local: pathlib.Path) -> None:
  """Copy an object to a local file."""
  with telling(remote):
    _filesystem().get_file(str(remote), str(local))


@functools.cache
def _downloads(process: int) -> pathlib.Path:
  """Return a folder for downloads, which goes with this process."""
  folder = tempfile.TemporaryDirectory(prefix="nova_jax-", ignore_cleanup_errors=True)
  _folders.append(folder)
  return pathlib.Path(folder.name)


_folders: list[tempfile.TemporaryDirectory] = []


def local_copy(path: pathlib.Path) -> pathlib.Path:
  """Return a local file of the same content and ending, for libraries that read no buckets.

  A file on a disk is returned itself. An object is downloaded once for each of its versions, into the folder of
  temporary files, and kept until this process ends.
  """
  if not is_remote(path):
    return path
  found = path.stat()
  name = hashlib.sha256(f"{path} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:32]
  local = _downloads(os.getpid()) / f"{name}{path.suffix}"
  if not local.exists():
    partial = local.with_suffix(".partial")
    download(path, partial)
    partial.rename(local)
  return local


def names_below(folder: pathlib.Path) -> list[str]:
  """Return the paths of all files below a folder, relative to it."""
  if is_remote(folder):
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
  return [(pathlib.Path(place) / name).relative_to(folder).as_posix()
          for place, _, names in os.walk(folder) for name in names]


@contextlib.contextmanager
def telling(path: str | os.PathLike) -> Generator[None]:
  """Turn what the libraries of a bucket raise, of many types, into an `OSError` with a number and the address."""
  try:
    yield
  except Exception as error:
    number, text = _explain(error)
    if number is None:
      raise
    raise OSError(number, text, os.fspath(path)) from error


def _explain(error: Exception) -> tuple[int | None, str]:
  """Return the number and the text of a bucket's failure; None for another error."""
  if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
    return None, ""
  code = str(getattr(error, "code", None) or getattr(error, "status", None))
  code = int(code) if code.isdigit() else None
  text = " ".join(str(getattr(error, "message", None) or error).split())[:_LONGEST]
  if isinstance(error, FileNotFoundError) or code == 404:
    return errno.ENOENT, os.strerror(errno.ENOENT)
  if isinstance(error, FileExistsError) or code == 412:
    return errno.EEXIST, os.strerror(errno.EEXIST)
  if type(error).__name__ == "DefaultCredentialsError":
    return errno.EACCES, "no credentials for Google Cloud; run `gcloud auth application-default login`"
  if code in (401, 403) or isinstance(error, OSError) and text.startswith("Forbidden"):
    return errno.EACCES, f"no permission ({text.removeprefix('Forbidden: ')})"
  if code is not None and code >= 400:
    return errno.EREMOTEIO, f"the bucket fails with {code} ({text})"
  if type(error).__module__.partition(".")[0] in ("aiohttp", "requests", "urllib3", "google", "gcsfs", "fsspec"):
    return errno.EREMOTEIO, f"the bucket can't be reached ({type(error).__name__})"
  if isinstance(error, TimeoutError):
    return errno.ETIMEDOUT, "the bucket does not answer"
  return None, ""


def read_version(path: pathlib.Path) -> tuple[bytes, int] | None:
  """Return the content of an object and the generation of it, which changes with every write; None if there is none."""
  blob = _blob(path)
  with contextlib.suppress(FileNotFoundError), telling(path):
    content = blob.download_as_bytes()
    return content, int(blob.generation)
  return None


def write_version(path: pathlib.Path, content: bytes, generation: int) -> int | None:
  """Write an object if nobody else has written it meanwhile.

  Args:
    path: of the object.
    content: of it; no two writers write the same.
    generation: which the object must have; 0 if there must be none.

  Returns:
    The new generation; None if the object has another one.
  """
  blob = _blob(path)
  try:
    with telling(path):
      blob.upload_from_string(content, if_generation_match=generation)
      return int(blob.generation)
  except FileExistsError:
    # A write whose answer was lost is tried again, and then meets itself.
    found = read_version(path)
    return found[1] if found is not None and found[0] == content else None


def remove_version(path: pathlib.Path, generation: int) -> None:
  """Remove an object, unless it has another generation by now."""
  with contextlib.suppress(FileExistsError, FileNotFoundError), telling(path):
    _blob(path).delete(if_generation_match=generation)


def _blob(path: pathlib.Path) -> Any:
  return _client(os.getpid()).bucket(path.parts[2]).blob("/".join(path.parts[3:]))


@functools.cache
def _client(process: int) -> Any:
  """Return the client of a process, whose connections no other one can use."""
  from google.cloud import storage

  with telling("gs://"):
    return storage.Client()
