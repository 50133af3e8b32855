"""What happens beside the steps of a training run: the protocol of callbacks, and the one that saves checkpoints.

The trainer calls its callbacks in the order of the list, and the hooks in the order of the class below. All processes
call them alike, but for `log`. A callback sees the run as the trainer's attributes: `state`, `step` (steps done),
`stage`, `cfg`, `data`, `workdir`, and `average()`, the model with averaged weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nova_jax.train.step import Metrics

if TYPE_CHECKING:
  from nova_jax.train.trainer import Trainer


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

  def before_step(self, trainer: Trainer) -> None:
    """Called before the next batch is waited for."""

  def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
    """Called when a step is dispatched and counted; its metrics are arrays that may still be computed."""

  def log(self, trainer: Trainer, step: int, values: Mapping[str, float]) -> None:
    """Called in process 0 for each line of the log, with the values that the line holds."""

  def close(self) -> None:
    """Called once, however the run ends."""


class SaveCheckpoints(Callback):
  """Saves a checkpoint every `every` steps, after the last step, and where the run stops."""

  def __init__(self, every: int):
    self._every = every

  def save(self, trainer: Trainer) -> None:
    if trainer.stop_cause or trainer.step == trainer.num_steps or trainer.step % self._every == 0:
      trainer.save_checkpoint()
