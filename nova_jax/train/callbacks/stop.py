"""The wish to stop a run: by a signal, to one process or to all, also from a cloud that takes its machines back.

Invariant: all processes stop after the same step.
"""

import signal
from typing import Any

import jax

from nova_jax.train.callbacks import Callback
from nova_jax.train.trainer import Trainer


class StopOnSignal(Callback):
  """Stops the run at the first SIGTERM or SIGINT, after the step in progress; a second one acts as usual.

  Among several processes SIGTERM is left to JAX, whose preemption service agrees on a step to stop after; SIGINT is
  passed on as a SIGTERM.
  """

  def __init__(self):
    self._cause: str | None = None
    self._previous: dict[int, Any] = {}

  def open(self, trainer: Trainer) -> None:
    alone = jax.process_count() == 1
    for number in (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,):
      self._previous[number] = signal.signal(number, self._note if alone else self._pass_on)

  def should_stop(self, trainer: Trainer) -> str | None:
    if not self._cause and trainer.checkpoints.reached_preemption(trainer.step):
      self._cause = "a signal to one of the processes"
    return self._cause

  def close(self) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, number: int, _) -> None:
    self._cause = signal.Signals(number).name
    signal.signal(number, self._previous[number])

  def _pass_on(self, number: int, _) -> None:
    signal.signal(number, self._previous[number])
    signal.raise_signal(signal.SIGTERM)
