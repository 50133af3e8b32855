"""What happens beside the steps of a training run: the protocol of callbacks, and the one that saves checkpoints.

The trainer calls its callbacks in the order of the list, and the hooks in the order of the class below. All processes
call them alike, but for `log`. A callback sees the run as the trainer's attributes: `state`, `step` (steps done),
`stage`, `cfg`, `data`, `workdir`, and `average()`, the model with averaged weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nova_jax.parallel.processes import broadcast_from_first
from nova_jax.train.step import Metrics

if TYPE_CHECKING:
  from nova_jax.train.trainer import Trainer

_ASKED = 10  # Steps between looks at the clock.


class Callback:
  """Hooks of a run, none of which does anything; yours overrides those that it needs."""

  def open(self, trainer: Trainer) -> None:
    """Called once, when the workdir belongs to the run and before the data is opened; process 0 comes first."""

  def evaluate(self, trainer: Trainer) -> Mapping[str, float] | None:
    """Called after each step, before it may be saved; return metrics that are logged with those of the step."""

  def should_stop(self, trainer: Trainer) -> str | None:
    """Called before each step; return what stops the run here, as in "stopped by …". All processes must agree."""

  def save(self, trainer: Trainer) -> None:
    """Called before each step and after the last one, when it is known whether the run stops (`stop_cause`)."""

  def state(self) -> Mapping[str, Any]:
    """Return what the callback must know to go on after a restart, ready for JSON; it is saved with checkpoints."""
    return {}

  def restore(self, state: Mapping[str, Any]) -> None:
    """Called with what `state` returned when the checkpoint was saved from which the run continues."""

  def before_step(self, trainer: Trainer) -> None:
    """Called before the next batch is waited for."""

  def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
    """Called when a step is dispatched and counted; its metrics are arrays that may still be computed."""

  def log(self, trainer: Trainer, step: int, values: Mapping[str, float]) -> None:
    """Called in process 0 for each line of the log, with the values that the line holds."""

  def close(self) -> None:
    """Called once, however the run ends."""


class SaveCheckpoints(Callback):
  """Saves a checkpoint every `every` steps, after the last step, and where the run stops; or when time has passed.

  It also saves one where the learning rate begins to fall, if a longer run can continue from there.
  """

  def __init__(self, every: int, minutes: float = 0.0):
    """Plan when to save.

    Args:
      every: steps between checkpoints.
      minutes: time since the last checkpoint after which one is saved as well, at the next multiple of ten steps, where
        all processes ask the clock of process 0; 0 for never.
    """
    self._every, self._minutes, self._saved = every, minutes, time.monotonic()

  def open(self, trainer: Trainer) -> None:
    self._saved = time.monotonic()

  def save(self, trainer: Trainer) -> None:
    is_last = trainer.stop_cause or trainer.step in (trainer.branch_step, trainer.num_steps)
    is_planned = is_last or trainer.step % self._every == 0
    if is_planned or self._is_due(trainer):
      trainer.save_checkpoint()
      self._saved = time.monotonic()

  def _is_due(self, trainer: Trainer) -> bool:
    if not self._minutes or trainer.step % _ASKED:
      return False
    return broadcast_from_first(time.monotonic() - self._saved >= 60 * self._minutes)
