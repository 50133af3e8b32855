"""Who follows a run: JSON lines, TensorBoard, Weights & Biases, by the names in `train.trackers`.

A tracker is a class of a few methods (`base.py`). Process 0 alone has some.
Invariant: a tracker that fails is noted once and ends no training.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nova_jax.train.trackers.base import Line, Tracker
from nova_jax.train.trackers.jsonl import JsonLines
from nova_jax.train.trackers.mirror import Mirror
from nova_jax.train.trackers.tensorboard import TensorBoard
from nova_jax.train.trackers.wandb import WeightsAndBiases
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean
from nova_jax.utils.terminal import say

__all__ = ["TRACKERS", "Line", "Tracker", "Trackers", "check_trackers"]

TRACKERS: Mapping[str, type[Tracker]] = {
    "jsonl": JsonLines, "tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def check_trackers(names: Sequence[str]) -> None:
  """Refuse trackers that aren't known, named twice or not installed."""
  for name in names:
    if name not in TRACKERS:
      raise UserError(f"train.trackers: {name!r} is not known{did_you_mean(name, TRACKERS)}")
  if len(set(names)) < len(names):
    raise UserError(f"train.trackers: expected each once, got {', '.join(names)}")
  if "wandb" in names and importlib.util.find_spec("wandb") is None:
    raise UserError("train.trackers: wandb is not installed: pip install 'wandb<0.31', or nova_jax with that extra")


class Trackers:
  """The trackers of a run; a call goes to each of them."""

  def __init__(self, workdir: Path, names: Sequence[str], first_step: int, notes: Mapping[str, Any]):
    """Open trackers.

    Args:
      workdir: folder of the run, on a disk or in a bucket.
      names: keys of `TRACKERS`.
      first_step: steps that are done; what an earlier process wrote of later ones is dropped.
      notes: see `run_notes.begin`.
    """
    self._mirror = Mirror(workdir)
    self._trackers: list[Tracker] = []
    for name in names:
      with _noting(TRACKERS[name]):
        self._trackers.append(TRACKERS[name](self._mirror.local, workdir, first_step, notes))
    self._mirror.send()  # What was cut is counted as lost once.

  def line(self, line: Line) -> None:
    """Give the values of a line of the log to all trackers."""
    self._each(lambda tracker: tracker.line(line))
    self._mirror.send()

  def picture(self, step: int, name: str, path: Path) -> None:
    """Give a picture, a PNG file, to all trackers that show pictures."""
    self._each(lambda tracker: tracker.picture(step, name, path))

  def close(self) -> None:
    """Close all of them.

    Raises:
      OSError: there are lines that could not be written.
    """
    lines = [tracker for tracker in self._trackers if isinstance(tracker, JsonLines)]
    self._trackers = [tracker for tracker in self._trackers if tracker not in lines]
    self._each(lambda tracker: tracker.close())
    for tracker in lines:  # What is said in them may be nowhere else.
      tracker.close()
    self._mirror.close()

  def _each(self, call: Callable[[Tracker], None]) -> None:
    for tracker in tuple(self._trackers):
      with _noting(type(tracker)) as noted:
        call(tracker)
      if noted:
        self._trackers.remove(tracker)


@contextlib.contextmanager
def _noting(kind: type[Tracker]) -> Generator[list[str]]:
  """Note an error of what is called within, whatever it is; yields a list that has the note in the end."""
  noted: list[str] = []
  try:
    yield noted
  except Exception as error:
    reason = (error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]) or type(error).__name__
    noted.append(f"note: {kind.title}: {reason}; training goes on without {kind.title}")
    say(noted[0])
