"""Files: written so that a reader never sees half of one, and JSON read with errors that a person understands.

A path may be an address in a bucket (`storage.py`): such a file is written on this machine first, then uploaded.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from nova_jax.storage import as_path, is_remote, upload
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError

_LONGEST_NAME = 255  # Bytes of a file's name.
_DEAD_AFTER = 24 * 3600  # Seconds without a write after which the writer on another host is taken for dead.
# The text by which libraries without error numbers tell that storage failed, and not what was read from it.
_STORAGE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EROFS,
    errno.EACCES, errno.EPERM, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENOMEM)


def write_atomically(path: str | Path, content: str | bytes | Callable[[Path], None]) -> None:
  """Write to a temporary name in the same folder, then rename; what is renamed is on the disk.

  Args:
    path: of the file; its folder is made if missing.
    content: the text or bytes, or a function that writes the path it is given.
  """
  with replacing(path) as temporary:
    if callable(content):
      content(temporary)
    elif isinstance(content, bytes):
      temporary.write_bytes(content)
    else:
      temporary.write_text(content, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
  """Yield a temporary name to write to; it becomes `path` when the block ends, and is removed if that fails.

  Raises:
    OSError: a disk is full, for one; it names `path`.
  """
  path = as_path(path)
  if is_remote(path):
    with _uploading(path) as temporary:
      yield temporary
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  # The suffix stays last: writers of pictures and videos tell the format by it.
  end = f".{writer()}-{secrets.token_hex(3)}{path.suffix}"
  stem = os.fsencode(path.stem)[: _LONGEST_NAME - len(os.fsencode(end)) - 1]
  temporary = path.with_name(f".{os.fsdecode(stem)}{end}")
  try:
    yield temporary
    with temporary.open("rb") as file:
      os.fsync(file.fileno())  # Else a machine that dies may keep the name and lose what it names.
    os.replace(temporary, path)
  except OSError as error:
    # A write that fails has no name at all; an error without a number is a library's, in its own words.
    if error.errno is not None and error.filename in (None, str(temporary), os.fsencode(temporary)):
      error.filename, error.filename2 = str(path), None
    raise
  finally:
    with contextlib.suppress(OSError):  # Not instead of the error that is on its way.
      temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _uploading(path: Path) -> Iterator[Path]:
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


def remove_unfinished(folder: str | Path, names: Collection[str]) -> None:
  """Remove what was left in a folder by writers of these files that were killed; what is being written stays."""
  if is_remote(folder):
    return
  for path in Path(folder).glob(".*"):
    match = re.fullmatch(r"\.(.+)\.(\w+-\d+-\w+)-\w+(\.[^.]+)", path.name)
    if match and match[1] + match[3] in names and is_dead(match[2], path):
      path.unlink(missing_ok=True)


def writer() -> str:
  """Return what tells this process from all others, before and after, of all hosts: host, process and its start."""
  return f"{_host()}-{os.getpid()}-{_start_time(os.getpid())}"


@functools.cache
def _host() -> str:
  """Return a short digest of this host's name and of when it was started."""
  boot = Path("/proc/sys/kernel/random/boot_id")
  text = socket.gethostname() + (boot.read_text(encoding="utf-8") if boot.is_file() else "")
  return hashlib.sha256(text.encode()).hexdigest()[:6]


def _start_time(process: int) -> str:
  """Return when a process was started, as the system counts it; "0" where it doesn't say."""
  try:
    content = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
  except OSError:
    return "0"
  return f"{int(content.rpartition(')')[2].split()[19]):x}"  # What precedes may hold spaces and brackets.


def is_dead(name: str, path: Path | None = None) -> bool:
  """Return whether a writer has ended, as far as one can tell; this process is no such writer.

  Args:
    name: what `writer` returned there.
    path: of its temporary file, whose age tells of a writer on another host.
  """
  host, process, start = name.split("-")
  if host != _host():
    if path is None:
      return False
    try:
      return time.time() - path.stat().st_mtime > _DEAD_AFTER
    except OSError:
      return False
  try:
    os.kill(int(process), 0)
  except (OverflowError, ProcessLookupError):
    return True
  except PermissionError:
    pass
  return start != _start_time(int(process))  # Else its number was given to another process.


def storage_error(error: Exception, path: str | Path) -> OSError | None:
  """Return the failure of storage that a library tells in words alone; None if it tells of something else.

  Args:
    error: what the library raised.
    path: of the file that it was reading or writing.
  """
  number = next((number for number in _STORAGE if os.strerror(number).lower() in str(error).lower()), None)
  if number in (errno.EMFILE, errno.ENFILE):
    return OSError(number, "too many files are open; allow more of them with `ulimit -n`", str(path))
  return None if number is None else OSError(number, os.strerror(number), str(path))


def check_writable(flag: str, path: str | None) -> None:
  """Raise a ValueError if no file can be written at `path`: before the long work whose result goes there."""
  if path is None:
    return
  folder = as_path(path).absolute().parent
  if not folder.is_dir() and not is_remote(folder):
    raise UserError(f"--{flag}: there is no folder {str(Path(path).parent)!r} to write to")
  if as_path(path).is_dir():
    raise UserError(f"--{flag}: {path} is a folder; expected a file")
  check_folder_writable(flag, folder)


def check_folder_writable(flag: str, folder: str | Path) -> Path:
  """Make a folder unless it is there, and write to it: before the long work whose results go there.

  Args:
    flag: that names the folder.
    folder: its path.

  Returns:
    The folder.

  Raises:
    ValueError: it can't be made or written to; only an attempt tells, of a mount that can only be read.
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
    with tempfile.TemporaryFile(dir=folder) as file:  # Without a name, where the system can: a kill leaves nothing.
      file.write(b"?")
      file.flush()
  except OSError as error:
    missing = is_remote(folder) and error.errno == errno.ENOENT
    why = "there is no such bucket" if missing else error.strerror
    raise UserError(f"--{flag}: the folder {folder} can't be written to ({why}); choose another") from error
  return folder


def check_folder(flag: str, path: str | Path) -> None:
  """See that a folder can be written to, without making it: of one that is missing, the folder that will hold it is.

  Raises:
    ValueError: it can't.
  """
  folder = as_path(path).absolute()
  while not is_remote(folder) and not folder.exists() and folder != folder.parent:
    folder = folder.parent
  check_folder_writable(flag, folder)


class NoFile(UserError):
  """There is nothing at a path, or something else than a file; the text begins with the path."""


def check_regular(path: str | Path) -> Path:
  """Return the path of a file that can be read to its end: a device, a pipe or a socket would block or never end.

  Raises:
    NoFile: there is nothing, or something else than a file.
  """
  path = as_path(path)
  try:
    mode = path.stat().st_mode
  except ValueError:  # A NUL in the name.
    raise NoFile(f"{str(path)!r} is not the name of a file") from None
  except FileNotFoundError:
    link = f"; it is a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else ""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
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
    ValueError: it isn't one, is larger, or can't be read.
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
  """Raise a ValueError if a file holds what stands for a file that was never downloaded, or is empty."""
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
  """Read at most the first `size` bytes of a regular file; errors as of `read_bytes`."""
  path = check_regular(path)
  try:
    with path.open("rb") as file:
      return file.read(size)
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}") from None


def read_json(path: str | Path, limit: int = limits.JSON_FILE_BYTES) -> dict[str, Any]:
  """Read a JSON object.

  Raises:
    ValueError: the file is missing, isn't one, is larger than `limit` bytes or nested too deep.
  """
  path = as_path(path)
  content = read_bytes(path, limit)
  from nova_jax.utils.text_files import decode  # Which reads files by this module.

  text = decode(content, str(path))
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    check_fetched(path)
    raise UserError(f"{path} is not JSON: {error}") from None
  if not isinstance(value, dict):
    raise UserError(f"{path}: expected a JSON object, got a {type(value).__name__}")
  if is_deeper(value, limits.JSON_DEPTH):  # What names a value in an error would meet Python's own limit.
    raise UserError(f"{path}: expected at most {limits.JSON_DEPTH} values within each other, got more")
  return value


def is_deeper(value: Any, depth: int) -> bool:
  """Whether lists and objects lie within each other more than `depth` times."""
  level = [value]
  for _ in range(depth):
    level = [
        inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)
        if isinstance(inner, (dict, list))]
  return bool(level)
