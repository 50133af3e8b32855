"""Which checkpoint of a run is read or kept: the newest, that of a step, or the best; and which of its weights.

A checkpoint that was saved after an evaluation has its value in the item `meta`, and whether higher ones are better. Of
equal ones the first is the best.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nova_jax.checkpoints.arrays import Damaged, finished_steps, read_item
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError

WEIGHTS = "ema, params or ema_DECAY"  # What names weights: the average, the last ones, a further average.
BEST = "best"  # In place of a step: that of the best checkpoint.
SCORE = "score"  # In a checkpoint's meta: {"metric": …, "value": …, "higher": …}.


def latest_step(directory: str | Path) -> int:
  """Return the step of the newest finished checkpoint in `directory`.

  Raises:
    UserError: there is no such folder, or no finished checkpoint in it.
  """
  if not as_path(directory).is_dir():
    raise UserError(f"{directory} is not a folder; expected the checkpoints/ folder of a training run")
  steps = finished_steps(directory)
  if not steps:
    raise UserError(f"{directory} has no finished checkpoint; expected the checkpoints/ folder of a training run")
  return max(steps)


def scores(directory: str | Path) -> dict[int, float]:
  """Return the values, as of `as_cost`, of the finished checkpoints in `directory` that have one, by step."""
  found = {}
  for step in finished_steps(directory):
    with contextlib.suppress(Damaged):  # Whoever reads the checkpoint is told.
      score = read_item(as_path(directory).absolute() / str(step), "meta").get(SCORE)
      if isinstance(score, dict) and isinstance(score.get("value"), float):
        found[step] = as_cost(score)
  return found


def as_cost(score: Mapping[str, Any]) -> float:
  """Return the value of a checkpoint such that the lowest one is the best."""
  return -score["value"] if score.get("higher") else score["value"]


def rank(values: Mapping[int, float]) -> list[int]:
  """Return steps from the best value to the worst, and of equal values from the first step to the last."""
  return sorted(values, key=lambda step: (values[step], step))


def stored_under(which: str) -> str:
  """Return the start of the names of arrays that hold the weights `which` in a checkpoint.

  Raises:
    UserError: it is none of `WEIGHTS`.
  """
  if which in ("ema", "params"):
    return f"{which}/"
  kind, _, decay = which.partition("_")
  with contextlib.suppress(ValueError):  # What follows is no number: refused below.
    if kind == "ema" and 0 <= float(decay) < 1:
      return f"emas/{float(decay)}/"
  raise UserError(f"weights: expected {WEIGHTS}, as in ema_0.999, got {which!r}")


def find(directory: str | Path, which: str = "ema", step: int | str | None = None) -> Path:
  """Return the folder of a checkpoint.

  Args:
    directory: the checkpoints/ folder of a training run.
    which: weights that will be read, one of `WEIGHTS`.
    step: of the checkpoint, or "best"; None takes the newest.

  Raises:
    UserError: no such checkpoint there.
  """
  stored_under(which)
  newest = latest_step(directory)
  if step == BEST:
    if not (ranked := rank(scores(directory))):
      raise UserError(
          f"{directory} has no best checkpoint: none was saved after a step with an evaluation (eval.every)")
    step = ranked[0]
  folder = as_path(directory).absolute() / str(newest if step is None else step)
  if not folder.is_dir():
    raise UserError(f"{directory} has no checkpoint of step {step}; the newest is {newest}")
  return folder


@dataclasses.dataclass(frozen=True)
class KeepBest:
  """Keeps the checkpoints with the best values; a preservation policy of Orbax."""

  scores: Mapping[int, float]  # Of steps, some of which may be gone.
  count: int

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    del context
    there = {info.step for info in checkpoints}
    best = [step for step in rank(self.scores) if step in there][: self.count]
    return [info.step in best for info in checkpoints]
