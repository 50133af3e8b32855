"""The wish to stop a run: by a signal, to one process or to all, also from a cloud that takes its machines back.

Invariant: all processes stop after the same step.
"""

import signal

import jax

from nova_jax.checkpoints.store import Checkpointer


class StopRequest:
  """Notes the first SIGTERM or SIGINT instead of obeying it; a second one acts as usual.

  Among several processes SIGTERM is left to JAX, whose preemption service agrees on a step to stop after; SIGINT is
  passed on as a SIGTERM.
  """

  def __enter__(self) -> "StopRequest":
    self.cause: str | None = None
    alone = jax.process_count() == 1
    numbers = (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,)
    self._previous = {number: signal.signal(number, self._note if alone else self._pass_on) for number in numbers}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def reached(self, step: int, checkpoints: Checkpointer) -> bool:
    """Return whether the run is to stop after `step`; all processes ask for each step."""
    if not self.cause and checkpoints.reached_preemption(step):
      self.cause = "a signal to one of the processes"
    return bool(self.cause)

  def _note(self, number: int, _) -> None:
    self.cause = signal.Signals(number).name
    signal.signal(number, self._previous[number])

  def _pass_on(self, number: int, _) -> None:
    signal.signal(number, self._previous[number])
    signal.raise_signal(signal.SIGTERM)
