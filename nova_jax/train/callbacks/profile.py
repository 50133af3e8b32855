"""A window of steps whose profile is written to `WORKDIR/profile`, for TensorBoard or XProf to show.

Steps count from 1, as in the log. Process 0 writes the profile of its own host; all hosts run the same program.
"""

import re
import tempfile
from pathlib import Path

import jax

from nova_jax.parallel.processes import is_first
from nova_jax.storage import is_remote, upload
from nova_jax.train.callbacks import Callback
from nova_jax.train.step import Metrics
from nova_jax.train.trainer import Trainer
from nova_jax.utils.errors import UserError


def parse_window(text: str | None, num_steps: int) -> tuple[int, int] | None:
  """Read "FIRST:LAST", both included.

  Raises:
    UserError: it isn't that, or not within a run of `num_steps`.
  """
  if not text:
    return None
  match = re.fullmatch(r"(\d+):(\d+)", text)
  if not match or not 1 <= int(match[1]) <= int(match[2]) <= num_steps:
    raise UserError(f"--profile: expected FIRST:LAST, steps from 1 to {num_steps}, got {text!r}")
  return int(match[1]), int(match[2])


class Profile(Callback):
  """Records the steps of a window, or of what is left of it when a run continues within."""

  def __init__(self, window: tuple[int, int] | None):
    """Plan a profile.

    Args:
      window: first and last step of it; None records nothing.
    """
    self._window, self._running = window, False
    self._local: tempfile.TemporaryDirectory | None = None  # JAX writes no profile into a bucket.

  def before_step(self, trainer: Trainer) -> None:
    if self._window and is_first() and not self._running:
      first, last = self._window
      if first <= trainer.step + 1 <= last:
        self._folder = trainer.workdir / "profile"
        if is_remote(self._folder):
          self._local = tempfile.TemporaryDirectory(prefix="nova_jax-")
        jax.profiler.start_trace(self._local.name if self._local else self._folder)
        self._running = True

  def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
    if self._running and self._window and trainer.step == self._window[1]:
      jax.block_until_ready((trainer.state, metrics))
      self.close()

  def close(self) -> None:
    """End the recording, if it is running."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      if self._local:
        for path in Path(self._local.name).rglob("*"):
          if path.is_file():
            upload(path, self._folder / path.relative_to(self._local.name))
        self._local.cleanup()
