"""Shows progress: a bar on a terminal, or a line every few seconds in a log.

Invariant: the rate and the remaining time are measured over the latest items, without the time for compiling programs.
Only items of new shapes wait for compilation, so it does not predict the time of others.
"""

import collections
import datetime
import sys
import time
from typing import Any

import jax
from tqdm import tqdm

LOG_EVERY = 10.0  # Seconds between lines in a log.
# The rate is our own, since tqdm's includes compilation.
_LAYOUT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}{postfix}]"
_LAYOUT_OF_UNKNOWN = "{desc}{n_fmt} {unit} [{elapsed}{postfix}]"
_RECENT = 100  # Number of measurements from which a rate is computed.


class _Compilation:
  """Counts the seconds that this process has spent compiling."""

  _PARTS = frozenset(f"/jax/core/compile/{name}_duration" for name in ("jaxpr_to_mlir_module", "backend_compile"))

  def __init__(self):
    self.seconds = 0.0
    jax.monitoring.register_event_duration_secs_listener(self._add)

  def _add(self, event: str, duration_secs: float, **_: Any) -> None:
    self.seconds += duration_secs if event in self._PARTS else 0.0


_compilation = _Compilation()


def seconds_compiling() -> float:
  """Return the seconds that this process has spent compiling."""
  return _compilation.seconds


class Pace:
  """Measures the rate of work, in items per second."""

  def __init__(self):
    self._points: collections.deque[tuple[float, int]] = collections.deque(maxlen=_RECENT)

  def add(self, done: int) -> None:
    """Record that `done` items are done now."""
    if not self._points or done != self._points[-1][1]:
      self._points.append((time.monotonic() - _compilation.seconds, done))

  @property
  def rate(self) -> float | None:
    """Items per second; None before two measurements."""
    if len(self._points) < 2:
      return None
    (start, before), (end, done) = self._points[0], self._points[-1]
    return (done - before) / (end - start) if end > start and done > before else None

  def left(self, total: int) -> str:
    """Return the remaining time as "0:00:10 left"; "" if it is not yet known."""
    if not self.rate:
      return ""
    return f"{datetime.timedelta(seconds=round((total - self._points[-1][1]) / self.rate))} left"


class Progress:
  """A context manager that shows progress, rate and remaining time.

  Args:
    unit: unit of the count; "B" is scaled to kB, MB and GB.
    total: total count, if it is already known.
  """

  def __init__(self, unit: str, total: int | None = None):
    self._bar = tqdm(total=total, unit=unit, unit_scale=unit == "B", disable=None)
    self._bar.bar_format = _LAYOUT if total else _LAYOUT_OF_UNKNOWN
    self._log = self._bar.disable
    self._unit, self._total, self._done, self._pace = unit, total, 0, Pace()
    self._logged = time.monotonic()

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_) -> None:
    self._bar.close()

  def show(self, done: int, total: int | None = None, what: str = "") -> None:
    """Show that `done` of `total` are done, with the label `what`."""
    if total is not None and total != self._total:
      self._total = self._bar.total = total
      self._bar.bar_format = _LAYOUT
    if done:
      self._pace.add(done)
    if not self._log:
      self._bar.set_description(what, refresh=False)
      self._bar.set_postfix_str(self._speed(), refresh=False)
      self._bar.update(done - self._done)
    self._done = done
    now = time.monotonic()
    if self._log and now - self._logged >= LOG_EVERY:
      self._logged = now
      print(self.line(what), file=sys.stderr, flush=True)

  def line(self, what: str) -> str:
    """Return a line such as "what: 3/8 set, 0.5 set/s, 0:00:10 left"."""
    counted = self._scale(self._done)
    counted += "" if self._total is None else f"/{self._scale(self._total)}"
    return ", ".join(filter(None, (f"{what + ': ' if what else ''}{counted} {self._unit}", self._speed())))

  def _speed(self) -> str:
    rate = self._pace.rate
    if rate is None:
      return ""
    speed = f"{self._scale(rate) if self._unit == 'B' else f'{rate:.3g}'} {self._unit}/s"
    return speed if self._total is None else f"{speed}, {self._pace.left(self._total)}"

  def _scale(self, count: float) -> str:
    return tqdm.format_sizeof(count) if self._unit == "B" else f"{count:g}"
