"""Names of the processes that write files, by which unfinished files of dead ones are told from those being written."""

import functools
import hashlib
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from nova_jax.storage import is_remote

_DEAD_AFTER = 24 * 3600  # Seconds without a write after which a writer on another host counts as dead.


def writer() -> str:
  """Return a name that is unique among processes of all hosts and times: host, process and start time."""
  return f"{_host()}-{os.getpid()}-{_start_time(os.getpid())}"


@functools.cache
def _host() -> str:
  """Return a short digest of this host's name and start time."""
  boot = Path("/proc/sys/kernel/random/boot_id")
  text = socket.gethostname() + (boot.read_text(encoding="utf-8") if boot.is_file() else "")
  return hashlib.sha256(text.encode()).hexdigest()[:6]


def _start_time(process: int) -> str:
  """Return the start time of a process in the system's units; "0" where it is unknown."""
  try:
    content = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
  except OSError:
    return "0"
  return f"{int(content.rpartition(')')[2].split()[19]):x}"  # Earlier fields may have spaces and brackets.


def is_dead(name: str, path: Path | None = None) -> bool:
  """Return whether a writer has probably ended; false for this process.

  Args:
    name: result of `writer` in that process.
    path: path of its temporary file, whose age decides for a writer on another host.
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
  return start != _start_time(int(process))  # Otherwise another process has reused its number.


def remove_unfinished(folder: str | Path, is_meant: Callable[[str], bool]) -> None:
  """Remove temporary files of killed writers from a folder; files that are being written stay.

  Args:
    folder: path of the folder.
    is_meant: function that says of the name of a file whether those of it are removed.
  """
  if is_remote(folder):
    return
  for path in Path(folder).glob(".*"):
    match = re.fullmatch(r"\.(.+)\.(\w+-\d+-\w+)-\w+(\.[^.]+)", path.name)
    if match and is_meant(match[1] + match[3]) and is_dead(match[2], path):
      path.unlink(missing_ok=True)
