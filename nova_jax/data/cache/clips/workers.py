"""Processes that decode: as many as there are cores, their outcomes in the order of the items.

A library that crashes over a file takes its process along, as do the system where memory ends and a timer where an item
takes `limits.ITEM_SECONDS`; the items in flight then run one by one, each in a process that may crash, and the one that
does is rejected.
Invariant: outcomes depend neither on the number of processes nor on which of them decodes what.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cv2

from nova_jax.config import CacheConfig
from nova_jax.data.cache.clips.failures import Lost, attempt
from nova_jax.data.cache.clips.preprocess import Outcome, Rejected
from nova_jax.data.cache.items.item import Item, held
from nova_jax.utils import limits
from nova_jax.utils.errors import RunFailed

_AHEAD = 2  # Clips a process may be ahead of what has been taken.


class Workers:
  """Decodes items; a context manager.

  Args:
    num: processes; 0 decodes in this one.
    cfg: the settings.
    channels: of pixels.
  """

  def __init__(self, num: int, cfg: CacheConfig, channels: int):
    self._num, self._cfg, self._channels = num, cfg, channels
    self._pool = self._start(num) if num else None

  def __enter__(self) -> "Workers":
    return self

  def __exit__(self, *_) -> None:
    if self._pool is not None:
      self._pool.shutdown(wait=False, cancel_futures=True)

  def outcomes(self, items: Iterable[Item]) -> Iterator[Outcome | Lost]:
    """Yield what becomes of each item, in order.

    Raises:
      RunFailed: no process can be started that lives.
    """
    if self._pool is None:
      yield from (attempt(held(item), self._cfg, self._channels) for item in items)
      return
    items = iter(items)
    flying: collections.deque[tuple[Item, Future | None]] = collections.deque()
    while True:
      for item in itertools.islice(items, self._num * _AHEAD - len(flying)):
        flying.append((item, self._submit(item)))
      if not flying:
        return
      item, future = flying.popleft()
      try:
        if future is None:
          raise BrokenProcessPool
        yield future.result()
      except BrokenProcessPool:
        alone = [item, *(item for item, _ in flying)]
        flying.clear()
        self._pool.shutdown()
        yield from self._one_by_one(alone)
        self._pool = self._start(self._num)

  def _submit(self, item: Item) -> Future | None:
    """Hand an item to a process; None if one has crashed."""
    assert self._pool is not None
    try:
      return self._pool.submit(_timed, held(item), self._cfg, self._channels, limits.ITEM_SECONDS)
    except BrokenProcessPool:
      return None

  def _one_by_one(self, items: list[Item]) -> Iterator[Outcome | Lost]:
    pool = self._start_checked()
    for item in items:
      begin = time.monotonic()
      try:
        yield pool.submit(_timed, held(item), self._cfg, self._channels, limits.ITEM_SECONDS).result()
      except BrokenProcessPool:
        slow = time.monotonic() - begin >= limits.ITEM_SECONDS
        yield Rejected(
            f"it takes more than {limits.ITEM_SECONDS} seconds to decode (ITEM_SECONDS)" if slow else
            "the process that decoded it crashed, or was killed for want of memory")
        pool = self._start_checked()
    pool.shutdown()

  def _start_checked(self) -> ProcessPoolExecutor:
    """Start a process and see that it lives; else every item would seem to crash it."""
    pool = self._start(1)
    try:
      pool.submit(os.getpid).result()
    except BrokenProcessPool:
      raise RunFailed(
          "the processes that decode end as soon as they start: is there memory left, and may they open files? The "
          "cache is not finished, and the same command continues it") from None
    return pool

  def _start(self, num: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num, multiprocessing.get_context("spawn"), _start_worker)


def _start_worker() -> None:
  """Leave interrupts to the parent, end with it however it ends, and keep to one core."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  cv2.setNumThreads(1)
  with contextlib.suppress(OSError):  # Where memory ends, Linux ends the one that decodes and not the one that writes.
    with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
      file.write("500")


def _timed(item: Item, cfg: CacheConfig, channels: int, seconds: int) -> Outcome | Lost:
  """Attempt an item; the process ends if that takes too long, wherever it is."""
  signal.alarm(seconds)
  try:
    return attempt(item, cfg, channels)
  finally:
    signal.alarm(0)


def _end_with_parent() -> None:
  if (parent := multiprocessing.parent_process()) is not None:
    parent.join()
  os._exit(1)
