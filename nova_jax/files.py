"""Files: written so that a reader never sees half of one, and JSON read with errors that a person understands."""

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any


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
  """Yield a temporary name to write to; it becomes `path` when the block ends, and is removed if that fails."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # The suffix stays last: writers of pictures and videos tell the format by it.
  temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
  try:
    yield temporary
    with temporary.open("rb") as file:
      os.fsync(file.fileno())  # Else a machine that dies may keep the name and lose what it names.
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def remove_unfinished(folder: str | Path, names: Collection[str]) -> None:
  """Remove what was left in a folder by writers of these files that were killed; what is being written stays."""
  for path in Path(folder).glob(".*"):
    match = re.fullmatch(r"\.(.+)\.(\d+)(\.[^.]+)", path.name)
    if match and match[1] + match[3] in names and not _runs(int(match[2])):
      path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
  """Whether another process of this machine has this number."""
  try:
    os.kill(process, 0)
  except (OverflowError, ProcessLookupError):
    return False
  except PermissionError:
    pass
  return process != os.getpid()


def check_writable(flag: str, path: str | None) -> None:
  """Raise a ValueError if no file can be written at `path`: before the long work whose result goes there."""
  if path is None:
    return
  folder = Path(path).absolute().parent
  if not folder.is_dir():
    raise ValueError(f"--{flag}: there is no folder {str(Path(path).parent)!r} to write to")
  if Path(path).is_dir():
    raise ValueError(f"--{flag}: {path} is a folder; expected a file")
  if not os.access(folder, os.W_OK):
    raise ValueError(f"--{flag}: the folder {str(Path(path).parent)!r} can't be written")


def check_regular(path: str | Path) -> Path:
  """Return the path of a file that can be read to its end: a device, a pipe or a socket would block or never end.

  Raises:
    ValueError: there is nothing, or something else than a file.
  """
  path = Path(path)
  try:
    mode = path.stat().st_mode
  except ValueError:  # A NUL in the name.
    raise ValueError(f"{str(path)!r} is not the name of a file") from None
  except FileNotFoundError:
    link = f"; it is a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else ""
    raise ValueError(f"{path} does not exist{link}") from None
  except OSError as error:
    raise ValueError(f"{path}: {error.strerror}") from None
  if stat.S_ISDIR(mode):
    raise ValueError(f"{path} is a folder; expected a file")
  if not stat.S_ISREG(mode):
    raise ValueError(f"{path} is neither a file nor a link to one; devices, pipes and sockets are not read")
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
    raise ValueError(f"{path}: {error.strerror}") from None
  if len(content) > limit:
    raise ValueError(f"{path}: expected at most {limit:,} bytes, got {path.stat().st_size:,}")
  return content


def read_json(path: Path) -> dict[str, Any]:
  """Read a JSON object.

  Raises:
    ValueError: the file is missing or isn't one.
  """
  try:
    value = json.loads(path.read_text(encoding="utf-8-sig"))
  except OSError as error:
    raise ValueError(f"{path} does not exist" if not path.exists() else f"{path}: {error.strerror}") from None
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not JSON: {error}") from None
  if not isinstance(value, dict):
    raise ValueError(f"{path}: expected a JSON object, got a {type(value).__name__}")
  return value
