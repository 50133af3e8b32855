"""A lock that holds across machines: an object in a bucket that its holder writes anew every few seconds.

No clock is compared with another one: who waits sees whether the object still changes. Invariant: of several processes
that take over a lease, one alone gets it, and the holder that lost it learns so before it saves again.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from nova_jax import storage
from nova_jax.utils.errors import RunFailed
from nova_jax.utils.writers import is_dead, writer

NAME = "lease.json"
RENEWED = 20.0  # Seconds between two writes of the holder.
LAPSES = 120.0  # Seconds without a write after which the holder is taken for dead.


class Taken(Exception):
  """Another process holds the lease; the text says which."""


class Lease:
  """Holds a folder of a bucket for one process."""

  def __init__(self, folder: Path, say):
    """Take the lease of a folder; waits for one whose holder gives no sign of life.

    Args:
      folder: in a bucket.
      say: function that is told why this waits.

    Raises:
      Taken: by a process that lives.
      OSError: the bucket can't be used.
    """
    self.path = folder / NAME
    self._end, self._lost, self._count = threading.Event(), "", 0
    self._token = secrets.token_hex(8)
    found = storage.read_version(self.path)
    if found is not None and not holder_is_dead(found[0]):
      say(f"{folder} is held by {_holder(found[0])}: waiting up to {LAPSES:.0f} s for a sign of life")
      self._see_no_life(*found)
    generation = storage.write_version(self.path, self._content(), found[1] if found else 0)
    if generation is None:
      raise Taken("another process, which has just begun")
    self._generation = generation
    self._thread = threading.Thread(target=self._renew, daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raise a RunFailed if another process has taken the lease over."""
    if self._lost:
      raise RunFailed(
          f"{self.path.parent}: {self._lost} has taken this folder over, since this process gave no sign of life for "
          f"{LAPSES:.0f} s; that one goes on")

  def release(self) -> None:
    """Give the lease back."""
    self._end.set()
    self._thread.join()
    if not self._lost:
      with contextlib.suppress(OSError):  # It lapses.
        storage.remove_version(self.path, self._generation)

  def _see_no_life(self, content: bytes, generation: int) -> None:
    end = time.monotonic() + LAPSES
    while time.monotonic() < end:
      time.sleep(min(RENEWED / 4, max(end - time.monotonic(), 0)))
      now = storage.read_version(self.path)
      if now is None or now[1] != generation:
        raise Taken(_holder(content if now is None else now[0]))

  def _content(self) -> bytes:
    self._count += 1
    return holder(lease=self._token, count=self._count)

  def _renew(self) -> None:
    while not self._end.wait(RENEWED):
      with contextlib.suppress(OSError):  # Of a bucket that may answer the next time.
        generation = storage.write_version(self.path, self._content(), self._generation)
        if generation is None:
          found = storage.read_version(self.path)
          self._lost = "another process" if found is None else _holder(found[0])
          return
        self._generation = generation


def read_holder(folder: Path) -> tuple[str, float] | None:
  """Return who holds the lease of a folder, and how many seconds ago it was renewed; None if nobody does."""
  path = folder / NAME
  try:
    return _holder(path.read_bytes()), time.time() - path.stat().st_mtime
  except FileNotFoundError:
    return None


_held: dict[str, Lease] = {}


@contextlib.contextmanager
def held(folder: Path, say) -> Generator[None]:
  """Hold the lease of a folder in a bucket meanwhile; arguments and errors as of `Lease`."""
  lease = _held[str(folder)] = Lease(folder, say)
  try:
    yield
  finally:
    del _held[str(folder)]
    lease.release()


def check_held(folder: Path) -> None:
  """Raise a RunFailed if the lease of a folder, or of one that it lies in, was held by this process and was lost."""
  for name in (folder, *folder.parents):
    if lease := _held.get(str(name)):
      lease.check()


def holder(**more: Any) -> bytes:
  """Return what a file says whose holder is this process."""
  return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "writer": writer(), **more}).encode()


def holder_is_dead(content: bytes) -> bool:
  """Return whether the holder that a file names was a process of this machine and has ended."""
  name = _read(content).get("writer", "")
  return bool(name) and is_dead(name)


def _read(content: bytes) -> dict[str, Any]:
  with contextlib.suppress(ValueError):  # Not written by a holder: it says nothing.
    value = json.loads(content)
    if isinstance(value, dict):
      return value
  return {}


def _holder(content: bytes) -> str:
  value = _read(content)
  return f"process {value.get('process', '?')} of host {value.get('host', '?')}"
