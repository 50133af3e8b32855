"""A file that is read part by part: a piece of another file, or an object in a bucket."""

import io
from collections.abc import Callable
from typing import Any


class PartReader(io.RawIOBase):
  """A file that is open for reading, whose content a function returns part by part."""

  def __init__(self, size: int, read_part: Callable[[int, int], bytes]):
    """Start at the beginning.

    Args:
      size: number of bytes of the file.
      read_part: function that returns bytes from a place on, as many as are asked for.
    """
    self._size, self._read_part, self._place = size, read_part, 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    self._place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence])
    return self._place

  def readinto(self, buffer: Any) -> int:
    content = self._read(len(buffer))
    buffer[: len(content)] = content
    return len(content)

  def readall(self) -> bytes:
    return self._read(self._size)

  def _read(self, size: int) -> bytes:
    size = min(size, self._size - self._place)
    content = self._read_part(self._place, size) if size > 0 else b""
    self._place += len(content)
    return content
