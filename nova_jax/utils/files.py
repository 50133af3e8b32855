"""Files: atomic writes, checks of paths, and reading of JSON with clear errors.

A path may be an address in a bucket (`storage`): such a file is written on this machine first, then uploaded.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from nova_jax.storage import as_path, holds_runs, is_remote, upload
from nova_jax.utils import limits
from nova_jax.utils.errors import BUCKET_FAILURES, UserError
from nova_jax.utils.writers import writer

_LONGEST_NAME = 255  # Largest number of bytes in a file's name.
# Messages of libraries without error numbers that mean failing storage, rather than invalid content.
_STORAGE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EROFS,
    errno.EACCES, errno.EPERM, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENOMEM)


def write_atomically(path: str | Path, content: str | bytes | Callable[[Path], None]) -> None:
  """Write to a temporary name in the same folder, flush to disk, and rename.

  Args:
    path: path of the file, whose folder is created if missing.
    content: text or bytes, or a function that writes to a given path.
  """
  with replacing(path) as temporary:
    if callable(content):
      content(temporary)
    elif isinstance(content, bytes):
      temporary.write_bytes(content)
    else:
      temporary.write_text(content, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: str | Path) -> Generator[Path]:
  """Yield a temporary name to write to; it becomes `path` when the block ends, and is removed if that fails.

  Raises:
    OSError: writing fails, for instance on a full disk; the error names `path`.
  """
  path = as_path(path)
  if is_remote(path):
    with _uploading(path) as temporary:
      yield temporary
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  # The suffix stays last, since writers of pictures and videos derive the format from it.
  end = f".{writer()}-{secrets.token_hex(3)}{path.suffix}"
  stem = os.fsencode(path.stem)[: _LONGEST_NAME - len(os.fsencode(end)) - 1]
  temporary = path.with_name(f".{os.fsdecode(stem)}{end}")
  try:
    yield temporary
    with temporary.open("rb") as file:
      os.fsync(file.fileno())  # Otherwise a crash of the machine may keep the name and lose the content.
    os.replace(temporary, path)
  except OSError as error:
    # Errors of writes have no file name; errors without a number come from libraries.
    if error.errno is not None and error.filename in (None, str(temporary), os.fsencode(temporary)):
      error.filename, error.filename2 = str(path), None
    raise
  finally:
    with contextlib.suppress(OSError):  # Must not replace the error that is being raised.
      temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _uploading(path: Path) -> Generator[Path]:
  """Yield a local name to write to, which is uploaded when the block ends, unless that fails."""
  with tempfile.TemporaryDirectory() as folder:
    local = Path(folder) / path.name
    try:
      yield local
    except OSError as error:
      if error.errno is not None and error.filename in (None, str(local)):
        error.filename, error.filename2 = str(path), None
      raise
    upload(local, path)


def cache_folder() -> Path:
  """Return the folder of this user and machine for what can be made again."""
  return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "nova_jax"


def storage_error(error: Exception, path: str | Path) -> OSError | None:
  """Return an OSError for a storage failure that a library reports only as text; None for other errors.

  Args:
    error: error of the library.
    path: path of the file that it was reading or writing.
  """
  number = next((number for number in _STORAGE if os.strerror(number).lower() in str(error).lower()), None)
  if number is None and is_remote(path):
    number = next((number for word, number in BUCKET_FAILURES.items() if word in str(error)), None)
  if number in (errno.EMFILE, errno.ENFILE):
    return OSError(number, "too many files are open; allow more of them with `ulimit -n`", str(path))
  return None if number is None else OSError(number, os.strerror(number), str(path))


def check_writable(flag: str, path: str | None) -> None:
  """Raise UserError if no file can be written at `path`; call it before long work with a result there."""
  if path is None:
    return
  folder = as_path(path).absolute().parent
  if not folder.is_dir() and not is_remote(folder):
    raise UserError(f"--{flag}: there is no folder {str(Path(path).parent)!r} to write to")
  if as_path(path).is_dir():
    raise UserError(f"--{flag}: {path} is a folder; expected a file")
  check_folder_writable(flag, folder)


def check_folder_writable(flag: str, folder: str | Path) -> Path:
  """Create a folder if it is missing, and check that it can be written; call it before long work with results there.

  Args:
    flag: name of the flag that has the folder.
    folder: path of the folder.

  Returns:
    The folder.

  Raises:
    UserError: it can't be created or written; for a read-only mount only an attempt shows this.
  """
  folder = as_path(folder)
  if folder.exists() and not folder.is_dir():
    raise UserError(f"--{flag}: {folder} is a file; expected a folder, new or of an earlier run")
  try:
    if is_remote(folder):
      probe = folder / f".{writer()}-{secrets.token_hex(3)}"
      probe.write_bytes(b"?")
      probe.unlink()
      return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:  # Without a name where possible: a kill leaves nothing.
      file.write(b"?")
      file.flush()
  except OSError as error:
    missing = is_remote(folder) and error.errno == errno.ENOENT
    why = "there is no such bucket" if missing else error.strerror
    raise UserError(f"--{flag}: the folder {folder} can't be written to ({why}); choose another") from error
  return folder


def check_folder(flag: str, path: str | Path) -> None:
  """Check that a folder, or the parent of a missing one, can be written, without creating it.

  Raises:
    UserError: it can't be written.
  """
  folder = as_path(path).absolute()
  while not is_remote(folder) and not folder.exists() and folder != folder.parent:
    folder = folder.parent
  check_folder_writable(flag, folder)


def check_holds_runs(path: str | Path) -> Path:
  """Return the path of a checkpoint, a part of a model or a shard, which not all kinds of buckets can hold.

  Raises:
    UserError: it is an address of another kind.
  """
  if not holds_runs(path):
    raise UserError(f"{path}: arrays and shards are read and written on a disk or in a gs:// bucket alone")
  return as_path(path)


class NoFile(UserError):
  """There is no regular file at a path, with which the message begins."""


def check_regular(path: str | Path) -> Path:
  """Return the path of a regular file, since reading a device, a pipe or a socket may block or never end.

  Raises:
    NoFile: there is no regular file.
  """
  path = as_path(path)
  try:
    mode = path.stat().st_mode
  except ValueError:  # The name has a NUL.
    raise NoFile(f"{str(path)!r} is not the name of a file") from None
  except FileNotFoundError:
    link = f"; it is a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else ""
    if not is_remote(path) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
      link = "; addresses are not fetched: download the file, and give its path"
    raise NoFile(f"{path} does not exist{link}") from None
  except OSError as error:
    raise NoFile(f"{path}: {error.strerror}") from None
  if stat.S_ISDIR(mode):
    raise NoFile(f"{path} is a folder; expected a file")
  if not stat.S_ISREG(mode):
    raise NoFile(f"{path} is neither a file nor a link to one; devices, pipes and sockets are not read")
  return path


def read_bytes(path: str | Path, limit: int) -> bytes:
  """Read a regular file of at most `limit` bytes.

  Raises:
    UserError: it is not a regular file, is too large, or can't be read.
  """
  path = check_regular(path)
  try:
    with path.open("rb") as file:
      content = file.read(limit + 1)
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}") from None
  if len(content) > limit:
    raise UserError(f"{path}: expected at most {limit:,} bytes, got {path.stat().st_size:,}")
  return content


def check_fetched(path: str | Path) -> None:
  """Raise UserError if a file is empty, or a placeholder for a file that was not downloaded."""
  path = as_path(path)
  start = read_start(path, 200)
  if start.startswith(b"version https://git-lfs.github.com/spec/"):
    raise UserError(
        f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or download the file")
  if re.match(rb"\s*<(!doctype html|html)", start, re.IGNORECASE):
    raise UserError(f"{path} is a web page, not the file itself: its download may need a login; download it again")
  if not start:
    raise UserError(f"{path} is empty; was its download or copy cut? Fetch it again")


def read_start(path: str | Path, size: int) -> bytes:
  """Read at most the first `size` bytes of a regular file; raises as `read_bytes` does."""
  path = check_regular(path)
  try:
    with path.open("rb") as file:
      return file.read(size)
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}") from None


def read_json(path: str | Path, limit: int = limits.JSON_FILE_BYTES) -> dict[str, Any]:
  """Read a JSON object.

  Raises:
    UserError: the file is missing, not a JSON object, larger than `limit` bytes, or nested too deeply.
  """
  path = as_path(path)
  content = read_bytes(path, limit)
  from nova_jax.utils.text_files import decode  # This module imports ours.

  text = decode(content, str(path))
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    check_fetched(path)
    raise UserError(f"{path} is not JSON: {error}") from None
  if not isinstance(value, dict):
    raise UserError(f"{path}: expected a JSON object, got a {type(value).__name__}")
  if is_deeper(value, limits.JSON_DEPTH):  # Showing the value in an error would exceed Python's recursion limit.
    raise UserError(f"{path}: expected at most {limits.JSON_DEPTH} values within each other, got more")
  return value


def is_deeper(value: Any, depth: int) -> bool:
  """Return whether lists and objects are nested more than `depth` times."""
  level = [value]
  for _ in range(depth):
    level = [
        inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)
        if isinstance(inner, (dict, list))]
  return bool(level)
