"""Versions of objects: writes that succeed only if nobody else has written meanwhile, from which locks are built.

Buckets of Google Cloud Storage alone have them; a disk can create a file that is not there yet.
"""

import contextlib
import functools
import os
import pathlib
from typing import Any

from nova_jax.storage.addresses import is_remote, scheme_of
from nova_jax.storage.failures import telling


def create(path: pathlib.Path, content: bytes) -> bool:
  """Write a file if there is none, and return whether that was so; of several writers on any hosts, one alone succeeds.

  In buckets of other kinds than gs://, two that write in the same moment may both succeed.

  Args:
    path: of the file; its folder is created if missing.
    content: of it; no two writers write the same.
  """
  if not is_remote(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with path.open("xb") as file:
        file.write(content)
    except FileExistsError:
      return False
    return True
  if scheme_of(path) == "gs":
    return write_version(path, content, 0) is not None
  if path.exists():
    return False
  path.write_bytes(content)
  return True


def read_version(path: pathlib.Path) -> tuple[bytes, int] | None:
  """Return the content of an object and the generation of it, which changes with every write; None if there is none."""
  blob = _blob(path)
  with contextlib.suppress(FileNotFoundError), telling(path):  # The answer is None.
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
  with contextlib.suppress(FileExistsError, FileNotFoundError), telling(path):  # It has another one, or is gone.
    _blob(path).delete(if_generation_match=generation)


def _blob(path: pathlib.Path) -> Any:
  return _client(os.getpid()).bucket(path.parts[2]).blob("/".join(path.parts[3:]))


@functools.cache
def _client(process: int) -> Any:
  """Return the client of a process, whose connections no other one can use."""
  from google.cloud import storage

  with telling("gs://"):
    return storage.Client()
