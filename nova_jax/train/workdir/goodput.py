"""How the wall time of a training process is spent: on steps, and on all that is no step; what interruptions cost."""

import contextlib
import os
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

from nova_jax.utils.progress import seconds_compiling

_OTHERS = ("start", "restore", "data", "evaluate", "save")


class Lost(NamedTuple):
  """Work of an earlier process that no checkpoint has."""

  steps: int
  seconds: float

  def __str__(self) -> str:
    return f"{self.steps} step{'s' * (self.steps != 1)} ({self.seconds:.1f} s)"


def lost_work(rows: Sequence[Mapping[str, Any]], first_step: int, began_at: int) -> Lost:
  """Return what is lost when a run continues: steps that were logged and are done again, and the time until then.

  Args:
    rows: of `metrics.jsonl`, before its lines of later steps are cut off.
    first_step: step of the checkpoint that the run continues from.
    began_at: step from which the process before continued.
  """
  later = [row for row in rows if row["step"] > first_step]
  if not later:
    return Lost(0, 0.0)
  before = [row for row in rows if began_at < row["step"] <= first_step]
  seconds = _total(later[-1]) - (_total(before[-1]) if before else 0.0)
  return Lost(later[-1]["step"] - first_step, round(max(seconds, 0.0), 3))


def all_lost(starts: Sequence[Mapping[str, Any]]) -> Lost:
  """Return what was lost before all starts of a run, as `run_notes` notes them."""
  steps, seconds = ([start.get(name, 0) for start in starts] for name in ("lost_steps", "lost_seconds"))
  return Lost(sum(steps), float(sum(seconds)))


def _total(row: Mapping[str, Any]) -> float:
  """Return the seconds from the start of a process to a line of its log."""
  spent = row.get("spent")
  return sum(spent.values()) if isinstance(spent, dict) else 0.0


class Goodput:
  """Adds up the seconds since this process began: start, compile, restore, data, evaluate and save; steps are the rest.

  A save counts as long as the steps wait for it; most of it happens behind them.
  """

  def __init__(self):
    self._began = time.monotonic() - _age()
    self._spent = dict.fromkeys(_OTHERS, 0.0)

  def begin_steps(self) -> None:
    """Call before the first step: what has passed until then, and was nothing else, was the start."""
    if not self._spent["start"]:
      others = sum(self._spent.values()) + seconds_compiling()
      self._spent["start"] = max(time.monotonic() - self._began - others, 1e-9)

  def add(self, kind: str, seconds: float) -> None:
    """Add seconds that were spent on something."""
    self._spent[kind] += seconds

  @contextlib.contextmanager
  def spend(self, kind: str) -> Generator[None]:
    """Add the seconds that the code within takes, unless it compiles."""
    started = time.monotonic() - seconds_compiling()
    try:
      yield
    finally:
      self.add(kind, time.monotonic() - seconds_compiling() - started)

  def seconds(self) -> dict[str, float]:
    """Return the seconds by what they were spent on."""
    spent = self._spent | {"compile": seconds_compiling()}
    rest = time.monotonic() - self._began - sum(spent.values())
    return {name: round(value, 3) for name, value in {"steps": max(rest, 0.0), **spent}.items()}

  def line(self, starts: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a line for a person, also on what was lost before all `starts` of the run."""
    seconds = self.seconds()
    total = sum(seconds.values()) or 1.0
    parts = ", ".join(f"{name} {value / total:.1%}" for name, value in seconds.items())
    lost = all_lost(starts)
    return f"time: {total:.1f} s ({parts})" + (f", lost to interruptions: {lost}" if lost.steps else "")


def _age() -> float:
  """Return the seconds since this process was started; 0 where the system doesn't say."""
  try:
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
      ticks = int(file.read().rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
  except (AttributeError, OSError, ValueError, IndexError):
    return 0.0
