"""Writing files so that a reader never sees half of one."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | Path, content: str | bytes | Callable[[Path], None]) -> None:
  """Write to a temporary name in the same folder, then rename.

  Args:
    path: of the file; its folder is made if missing.
    content: the text or bytes, or a function that writes the path it is given.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # The suffix stays last: writers of pictures and videos tell the format by it.
  temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
  try:
    if callable(content):
      content(temporary)
    elif isinstance(content, bytes):
      temporary.write_bytes(content)
    else:
      temporary.write_text(content)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
