"""Numbered tasks that any hosts share out: each is done by one that claims it, however many come and go.

  FOLDER/000012.json      what became of task 12: it is done
  FOLDER/000012.claim-0   who is at it; -1, -2, … whoever took it over from a host that gave no sign of life

A claim is a file that one host alone can create. Its holder writes it anew every few seconds, and whoever waits sees
whether it still changes: no clock is compared with another one.
Invariant: claims save work, and nothing else depends on them. A holder that was slow rather than dead does a task that
another host does too, and both write the same bytes.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nova_jax import storage
from nova_jax.storage import RemotePath
from nova_jax.utils.lease import LAPSES, RENEWED, holder, holder_is_dead

_BLOCK = 1000  # Tasks that are looked up at once.
_LONGEST_PAUSE = 5.0  # Seconds before it is looked whether other hosts are done.


class Claims:
  """Claims to the tasks of one folder; a context manager, which gives unfinished claims back."""

  def __init__(self, folder: Path, names: Sequence[str] | int, over: Path | None = None, *, first: int = 0):
    """Look at nothing yet.

    Args:
      folder: of the tasks.
      names: of them; a number stands for so many of six digits.
      over: file that says that all is done, and that the folder may be gone; None if nothing does.
      first: number of the task to begin with, for hosts that begin together to begin in different places.
    """
    self._folder, self._names, self._over = folder, names, over
    self._num = names if isinstance(names, int) else len(names)
    blocks = range(-(-self._num // _BLOCK))
    self._left = [*blocks[first // _BLOCK :], *blocks[: first // _BLOCK]]  # Blocks that may have undone tasks.
    self._first = first
    self._held: dict[int, list[Path]] = {}
    self._own: set[int] = set()
    self._elsewhere: dict[int, int] = {}  # Tasks of a block that others have done.
    self._seen: dict[Path, tuple[bytes, float]] = {}  # Claims of others, and since when they are as they are.
    self._count, self._pause = 0, 0.1
    self._lock, self._end = threading.Lock(), threading.Event()
    self._thread = threading.Thread(target=self._renew, daemon=True)

  def __enter__(self) -> "Claims":
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._end.set()
    self._thread.join()
    for number in list(self._held):
      with contextlib.suppress(OSError):  # They lapse.
        self.release(number)

  @property
  def num_elsewhere(self) -> int:
    """Number of tasks that others were found to have done, or this host before."""
    return sum(self._elsewhere.values())

  def path(self, number: int) -> Path:
    """Return the file that says that a task is done."""
    return self._folder / f"{self._name(number)}.json"

  def rounds(self) -> Iterator[Iterator[int]]:
    """Yield iterators of tasks that this host has claimed, until all tasks are done; waits for other hosts between.

    An iterator ends where no task is free; `release` is to be called for each of its tasks when that is done.
    """
    while self._left:
      before = self._count
      yield self._free()
      if self._left and self._count == before:
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
      else:
        self._pause = 0.1

  def each(self) -> Iterator[int]:
    """Yield tasks that this host has claimed, and release each when the next one is asked for."""
    for free in self.rounds():
      for number in free:
        yield number
        self.release(number)

  def release(self, number: int) -> None:
    """Give a claim back, whether or not the task is done."""
    with self._lock:
      for path in self._held.pop(number, ()):
        path.unlink(missing_ok=True)

  def reopen(self) -> None:
    """Look at all tasks again: some that were done are so no more."""
    self._left = list(range(-(-self._num // _BLOCK)))

  def _free(self) -> Iterator[int]:
    for block in list(self._left):
      undone = self._undone(block)
      if not undone:
        self._left.remove(block)
      for number in undone:
        if number not in self._held and self.claim(number):
          self._count += 1
          self._own.add(number)
          yield number

  def _undone(self, block: int) -> list[int]:
    """Return the tasks of a block that are not done, those from the first one on first."""
    numbers = range(block * _BLOCK, min((block + 1) * _BLOCK, self._num))
    if self._all_over():
      return []
    if isinstance(self._names, int) and isinstance(self._folder, RemotePath):
      there = {path.name for path in self._folder.named(f"{block:03}")}
      undone = [number for number in numbers if f"{self._name(number)}.json" not in there]
    else:
      undone = [number for number in numbers if not self.path(number).is_file()]
    self._elsewhere[block] = len(set(numbers).difference(undone, self._own))
    return sorted(undone, key=lambda number: number < self._first)

  def _all_over(self) -> bool:
    return self._over is not None and self._over.is_file()

  def _name(self, number: int) -> str:
    return f"{number:06}" if isinstance(self._names, int) else self._names[number]

  def claim(self, number: int, again: bool = False) -> bool:
    """Claim a task; false if another host is at it, or has done it and it is not to be done again."""
    paths = []
    for turn in itertools.count():
      path = self._folder / f"{self._name(number)}.claim-{turn}"
      paths.append(path)
      if storage.create(path, holder(time=time.time_ns())):
        break
      if not self._is_over(path):
        return False
    with self._lock:
      self._held[number] = paths
    if not again and (self.path(number).is_file() or self._all_over()):  # It was done since it was looked up.
      self.release(number)
      return False
    return True

  def _is_over(self, path: Path) -> bool:
    """Return whether the holder of a claim has ended, or gave no sign of life for too long."""
    try:
      content = path.read_bytes()
    except FileNotFoundError:  # It has just finished: its task is not free.
      return False
    if holder_is_dead(content):
      return True
    before, since = self._seen.get(path, (None, 0.0))
    if content != before:
      self._seen[path] = content, time.monotonic()
      return False
    return time.monotonic() - since > LAPSES

  def _renew(self) -> None:
    while not self._end.wait(RENEWED):
      with self._lock:
        for paths in self._held.values():
          with contextlib.suppress(OSError):  # Of storage that may answer the next time.
            paths[-1].write_bytes(holder(time=time.time_ns()))


def alone(folder: Path, name: str, over: Path | None = None) -> Iterator[None]:
  """Yield once if this host is the first to claim a single task; wait otherwise until another one has done it.

  Args:
    folder: of the task.
    name: of it: FOLDER/NAME.json says that it is done.
    over: as of `Claims`.
  """
  with Claims(folder, [name], over) as tasks:
    for _ in tasks.each():
      yield
