"""Copies between buckets and this machine, for libraries that read and write no buckets."""

import contextlib
import functools
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Generator
from typing import BinaryIO

from nova_jax.storage.addresses import filesystem, is_remote
from nova_jax.storage.failures import telling

_CHUNK = 1 << 23  # Bytes that are fetched at once.


def upload(local: pathlib.Path, remote: pathlib.Path) -> None:
  """Copy a local file to an object, which appears whole."""
  with telling(remote):
    filesystem(remote).put_file(str(local), str(remote))


def download(remote: pathlib.Path, local: pathlib.Path) -> None:
  """Copy an object to a local file."""
  with telling(remote):
    filesystem(remote).get_file(str(remote), str(local))


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
def fetched(path: pathlib.Path, start: int = 0, size: int | None = None) -> Generator[BinaryIO]:
  """Open an object, or a part of it, as a local file, which is gone when the block ends.

  Args:
    path: in a bucket.
    start: byte at which the part begins.
    size: bytes of the part; None for all that follow.
  """
  with path.open("rb") as source, tempfile.TemporaryFile() as file:
    source.seek(start)
    left = source.seek(0, os.SEEK_END) - start if size is None else size
    source.seek(start)
    while left > 0 and (content := source.read(min(left, _CHUNK))):
      file.write(content)
      left -= len(content)
    file.seek(0)
    yield file
