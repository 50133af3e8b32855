"""Tars: their members and where these lie, read with care, compressed or not.

A tar is known by its content, since `.tar` may be the name of one that is compressed. A link in a tar is read as the
member that it names. Invariant: only headers are read here, of bounded size, and a damaged tar gives what is before the
damage and a line that says so.
"""

import bz2
import dataclasses
import functools
import gzip
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from nova_jax.media.signatures import HEAD, looks_like_media
from nova_jax.storage import is_remote
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import read_start

OPENERS: Mapping[str, Callable[[Any], Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
_MAGIC = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LARGEST = 1 << 40  # Bytes of a compressed tar's member, whose end isn't known before it is read.
_DAMAGED = (tarfile.TarError, EOFError, ValueError, OverflowError, zlib.error, lzma.LZMAError)


@dataclasses.dataclass(frozen=True)
class Member:
  """A file in a tar.

  Attributes:
    name: in the tar.
    start: place of its content in the tar, unpacked.
    size: of its content.
    problem: why it has none.
    is_media: whether it looks like media by its content; only found out for endings that don't say.
  """

  name: str
  start: int = 0
  size: int = 0
  problem: str = ""
  is_media: bool = False


def packing_of(path: Path) -> str:
  """Return how a file is compressed, "" if it isn't."""
  head = read_start(path, 8)
  return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def read_members(path: Path, packing: str, known: Collection[str]) -> tuple[list[Member], str]:
  """List a tar.

  Args:
    path: the file.
    packing: as `packing_of` returns it.
    known: endings of members whose content isn't looked at.

  Returns:
    The members that are files or links to them, in their order, and what is wrong with the tar, "" if nothing.

  Raises:
    OSError: storage fails.
  """
  if packing and packing not in OPENERS:
    return [], f"it is compressed with {packing}, which is not read; unpack it"
  end = _LARGEST if packing else path.stat().st_size
  members: list[Member] = []
  links: list[tuple[int, str, str]] = []  # Place among the members; what it leads to, from the top and as it says.
  problem = ""
  with _open(path, packing) if packing else path.open("rb") as file:
    try:
      place: int | None = 0
      while place is not None and not problem:
        begin = place
        with tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:
          problem = _read_headers(tar, end, members, links, known)
          place = None if problem else _find_next(file, tar.offset)
        if place == begin:
          problem = f"what is at byte {place:,} is not a header"
    except RecursionError:
      problem = "too many headers belong to one member"
    except _DAMAGED as error:
      problem = str(error)
    except OSError as error:
      if error.errno is not None:
        raise
      problem = str(error)
  return _linked(members, links), problem and f"the tar is damaged from here on: {problem}"


def _read_headers(
    tar: tarfile.TarFile, end: int, members: list[Member], links: list[tuple[int, str, str]], known: Collection[str]
) -> str:
  """Add the members of a tar, and return what is wrong with it."""
  while (found := tar.next()) is not None:
    tar.members.clear()  # ty: ignore[missing-attribute] (it would hold all headers)
    if found.size < 0 or found.offset_data + found.size > end:
      return f"{found.name[:200]!r} should have {found.size:,} bytes"
    if found.islnk() or found.issym():
      beside = posixpath.normpath(posixpath.join(posixpath.dirname(found.name), found.linkname))
      links.append((len(members), beside if found.issym() else found.linkname, found.linkname))
      members.append(Member(found.name))
    elif found.sparse is not None:
      members.append(Member(found.name, problem="it is stored with holes, which is not read"))
    elif found.isfile():
      looks = bool(found.size) and posixpath.splitext(found.name)[1].lower() not in known
      if looks:
        tar.fileobj.seek(found.offset_data)
        looks = looks_like_media(tar.fileobj.read(min(HEAD, found.size)))
      members.append(Member(found.name, found.offset_data, found.size, is_media=looks))
    elif not found.isdir():
      members.append(Member(found.name, problem="it is neither a file nor a link"))
  return ""


def _find_next(file: BinaryIO, offset: int) -> int | None:
  """Go to the header behind the zeros that end a tar, since tars may be put one behind another; None if none is."""
  file.seek(offset)
  while block := file.read(tarfile.BLOCKSIZE):
    if block.strip(b"\0"):
      return file.seek(-len(block), io.SEEK_CUR)
  return None


def _linked(members: list[Member], links: list[tuple[int, str, str]]) -> list[Member]:
  """Give links the place of what they lead to, also over other links."""
  known = {posixpath.normpath(member.name): member for i, member in enumerate(members)}
  for i, _, _ in links:
    known.pop(posixpath.normpath(members[i].name), None)
  for i, name, shown in links:
    target = known.get(posixpath.normpath(name))
    found = Member(members[i].name, problem=f"it is a link to {shown[:200]!r}, which is not in the tar before it")
    if target is not None and not target.problem:
      found = dataclasses.replace(target, name=members[i].name)
    members[i] = known[posixpath.normpath(found.name)] = found
  return members


class _Bounded(io.RawIOBase):
  """A file of which only short parts are read at once: headers say how long they are, and may lie."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.seek, self.tell = file.seek, file.tell

  def read(self, size: int = -1) -> bytes:
    if not 0 <= size <= limits.TAR_HEADER_BYTES:
      raise tarfile.ReadError(f"a header of {size:,} bytes; expected at most {limits.TAR_HEADER_BYTES:,}")
    return self._file.read(size)


def read_packed(path: Path, packing: str, start: int, size: int) -> bytes:
  """Read part of a compressed file; those of one file are best read in their order.

  Raises:
    UserError: the file is damaged.
    OSError: storage fails.
  """
  try:
    file = _unpacked(path, packing)
    file.seek(start)
    return file.read(size)
  except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
    _unpacked.cache_clear()
    if isinstance(error, OSError) and error.errno is not None:
      raise
    raise UserError(f"the tar is damaged: {error}") from None


@functools.lru_cache(maxsize=1)
def _unpacked(path: Path, packing: str) -> BinaryIO:
  return _open(path, packing)


def _open(path: Path, packing: str) -> Any:
  return OPENERS[packing](path.open("rb") if is_remote(path) else path)
