"""A window of steps whose profile is written to `WORKDIR/profile`, for TensorBoard or XProf to show.

Steps count from 1, as in the log. Process 0 writes the profile of its own host; all hosts run the same program.
"""

import re
from pathlib import Path
from typing import Any

import jax

from nova_jax.parallel.processes import is_first
from nova_jax.utils.errors import UserError


def parse_window(text: str | None, num_steps: int) -> tuple[int, int] | None:
  """Read "FIRST:LAST", both included.

  Raises:
    ValueError: it isn't that, or not within a run of `num_steps`.
  """
  if not text:
    return None
  match = re.fullmatch(r"(\d+):(\d+)", text)
  if not match or not 1 <= int(match[1]) <= int(match[2]) <= num_steps:
    raise UserError(f"--profile: expected FIRST:LAST, steps from 1 to {num_steps}, got {text!r}")
  return int(match[1]), int(match[2])


class Trace:
  """Records the steps of a window, or of what is left of it when a run continues within."""

  def __init__(self, window: tuple[int, int] | None, folder: Path):
    self._first, self._last = window if window and is_first() else (0, -1)
    self._folder, self._running = folder, False

  def before(self, step: int) -> None:
    """Call before a step begins to wait for its batch."""
    if self._first <= step <= self._last and not self._running:
      jax.profiler.start_trace(self._folder)
      self._running = True

  def after(self, step: int, results: Any) -> None:
    """Call when a step is dispatched; `results` are its arrays."""
    if self._running and step == self._last:
      jax.block_until_ready(results)
      self.close()

  def close(self) -> None:
    """End the trace, if one is running."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
