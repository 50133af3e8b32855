"""Processes that decode: as many as there are cores, their outcomes in the order of the items.

A library that crashes over a file takes its process along; the items in flight then run one by one, each in a process
that may crash, and the one that does is rejected.
Invariant: outcomes depend neither on the number of processes nor on which of them decodes what.
"""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cv2

from nova_jax.config import CacheConfig
from nova_jax.data.cache.clips import Outcome, Rejected, prepare
from nova_jax.data.cache.items import Item

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

  def outcomes(self, items: Iterable[Item]) -> Iterator[Outcome]:
    """Yield what becomes of each item, in order."""
    if self._pool is None:
      yield from (prepare(item, self._cfg, self._channels) for item in items)
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
    try:
      return self._pool.submit(prepare, item, self._cfg, self._channels)
    except BrokenProcessPool:
      return None

  def _one_by_one(self, items: list[Item]) -> Iterator[Outcome]:
    pool = self._start(1)
    for item in items:
      try:
        yield pool.submit(prepare, item, self._cfg, self._channels).result()
      except BrokenProcessPool:
        yield Rejected("the process that decoded it crashed")
        pool = self._start(1)
    pool.shutdown()

  def _start(self, num: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num, multiprocessing.get_context("spawn"), _start_worker)


def _start_worker() -> None:
  """Leave interrupts to the parent, end with it however it ends, and keep to one core."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  cv2.setNumThreads(1)


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)
