"""Progress of long work: a bar on a terminal, and now and then a line in a log."""

import datetime
import sys
import time

from tqdm import tqdm

LOG_EVERY = 10.0  # Seconds between lines of a log.


class Progress:
  """Shows how far work is, at which rate, and how long it will take; a context manager.

  Args:
    unit: what is counted; "B" is scaled to kB, MB and GB.
    total: how many there are, if it is known yet.
  """

  def __init__(self, unit: str, total: int | None = None):
    self._bar = tqdm(total=total, unit=unit, unit_scale=unit == "B", disable=None)
    self._log = self._bar.disable
    self._unit, self._total, self._done = unit, total, 0
    self._started = self._logged = time.monotonic()

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_) -> None:
    self._bar.close()

  def show(self, done: int, total: int | None = None, what: str = "") -> None:
    """Say that `done` of `total` are done, and what is being done."""
    if total is not None and total != self._total:
      self._total = self._bar.total = total
    if not self._log:
      self._bar.set_description(what, refresh=False)
      self._bar.update(done - self._done)
    self._done = done
    now = time.monotonic()
    if self._log and now - self._logged >= LOG_EVERY:
      self._logged = now
      print(self.line(what, now - self._started), file=sys.stderr, flush=True)

  def line(self, what: str, seconds: float) -> str:
    """Return "what: 3/8 set, 0.5 set/s, 0:00:10 left"."""
    scale = lambda count: tqdm.format_sizeof(count) if self._unit == "B" else f"{count:g}"
    rate = self._done / seconds
    counted = scale(self._done) if self._total is None else f"{scale(self._done)}/{scale(self._total)}"
    left = ""
    if self._total is not None and rate:
      left = f", {datetime.timedelta(seconds=round((self._total - self._done) / rate))} left"
    rate = scale(rate) if self._unit == "B" else f"{rate:.3g}"
    return f"{what + ': ' if what else ''}{counted} {self._unit}, {rate} {self._unit}/s{left}"
