"""The space that the demo takes on the disk: the oldest of its own files go when there are too many bytes."""

import contextlib
import re
import threading
from pathlib import Path

INPUTS, UPLOADS = "inputs", "uploads"  # Folders in the output: pictures that clips are made from, and all uploads.
_SECONDS = 10.0  # Between two looks; uploads come without a generation, too.


def make_room(output: Path, limit: int) -> None:
  """Remove the oldest files of the demo until all of them take at most `limit` bytes; the newest one stays."""
  found = [path for path in output.glob("*") if re.fullmatch(r"\d{3}-(.*-)?[0-9a-f]{8}\.(mp4|png)", path.name)]
  found += [path for folder in (INPUTS, UPLOADS) for path in (output / folder).rglob("*") if path.name[0] != "."]
  files = []
  for path in found:
    with contextlib.suppress(OSError):  # Another one may have removed it.
      if path.is_file() and not path.is_symlink():
        files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
  files.sort()
  total = sum(size for _, size, _ in files)
  for _, size, path in files[:-1]:
    if total <= limit:
      break
    with contextlib.suppress(OSError):  # As above.
      path.unlink()
      total -= size


def keep_room(output: Path, limit: int, closed: threading.Event) -> None:
  """Make room again and again until `closed` is set, in a thread of its own."""

  def work() -> None:
    while not closed.wait(_SECONDS):
      make_room(output, limit)

  threading.Thread(target=work, daemon=True).start()
