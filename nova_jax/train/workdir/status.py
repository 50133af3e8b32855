"""What can be told of a run from its workdir alone, on a disk or in a bucket, whoever runs it."""

import dataclasses
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nova_jax.checkpoints.store import finished_steps
from nova_jax.storage import is_remote
from nova_jax.train.trackers.jsonl import NAME as METRICS
from nova_jax.train.trackers.jsonl import read_rows
from nova_jax.train.workdir.goodput import all_lost
from nova_jax.train.workdir.run_notes import NAME as RUN_NOTES
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import read_json
from nova_jax.utils.lease import LAPSES, read_holder

_BLOCKS = "▁▂▃▄▅▆▇█"
_COLUMNS = 60


@dataclasses.dataclass(frozen=True)
class Status:
  """The state of a run.

  Attributes:
    trainer: who trains now; None if nobody does, as far as can be told.
    num_steps: steps of the whole run.
    rows: lines of `metrics.jsonl`.
    rate: steps a second, of the last line; None if it is unknown.
    checkpoints: steps of the finished checkpoints.
    saved: seconds since the newest one was saved.
    logged: seconds since the last line was written.
    starts: notes of all starts of the run; none if they can't be read.
  """

  trainer: str | None
  num_steps: int
  rows: Sequence[dict[str, Any]]
  rate: float | None
  checkpoints: Sequence[int]
  saved: float | None
  logged: float | None
  starts: Sequence[dict[str, Any]] = ()

  def lines(self) -> list[str]:
    """Return what a person reads."""
    step = self.rows[-1]["step"] if self.rows else 0
    if step >= self.num_steps:
      state = "done"
    else:
      state = f"training, by {self.trainer}" if self.trainer else "not training; the command that began it continues it"
    lines = [state, f"step {step:,} of {self.num_steps:,} ({step / self.num_steps:.0%})"]
    if self.rows:
      lines[-1] += f", stage {self.rows[-1]['stage']}, logged {_ago(self.logged)}"
    if self.rate:
      lines.append(f"{self.rate:.2f} steps/s, {_duration((self.num_steps - step) / self.rate)} left at this rate")
      lines[-1] += f", {mfu:.0%} MFU" if (mfu := self.rows[-1].get("mfu")) else ""
    if self.checkpoints:
      lines.append(f"last checkpoint {self.checkpoints[-1]:,}, saved {_ago(self.saved)}")
    else:
      lines.append("no checkpoint yet")
    if spent := self.rows[-1].get("spent") if self.rows else None:
      total = sum(spent.values()) or 1.0
      lines.append("time since the start: " + ", ".join(
          f"{name} {seconds / total:.0%}" for name, seconds in spent.items() if seconds >= total / 200))
    if len(self.starts) > 1:
      lines.append(f"{len(self.starts) - 1} restarts, which lost {all_lost(self.starts)}")
    losses = [row["loss"] for row in self.rows if isinstance(row.get("loss"), float) and math.isfinite(row["loss"])]
    if losses:
      lines.append(f"loss {losses[-1]:.4f}, from {min(losses):.4f} to {max(losses):.4f}")
      lines.append(sparkline(losses))
    return lines


def read_status(workdir: Path) -> Status:
  """Read the state of a run.

  Raises:
    UserError: there is no such folder, or it is no workdir.
  """
  path = workdir / "config.json"
  if not workdir.is_dir():
    raise UserError(f"there is no folder {workdir}; expected the workdir of a training run")
  if not path.is_file():
    raise UserError(f"{workdir} is no workdir of a training run: it has no config.json")
  try:
    train = read_json(path)["train"]
    num_steps, batch_sizes = train["steps"], {stage["name"]: stage["batch_size"] for stage in train["stages"]}
  except (KeyError, TypeError):
    raise UserError(f"{workdir} is no workdir of a training run: its config.json is of something else") from None
  log = workdir / METRICS
  rows, steps = read_rows(log), finished_steps(workdir / "checkpoints")
  return Status(
      _trainer(workdir), num_steps, rows, _rate(rows, batch_sizes), steps,
      _age(workdir / f"checkpoints/{steps[-1]}/_CHECKPOINT_METADATA") if steps else None, _age(log), _starts(workdir))


def sparkline(values: Sequence[float], columns: int = _COLUMNS) -> str:
  """Return a plot of one line: each column is the mean of its share of the values."""
  columns = min(columns, len(values))
  edges = [i * len(values) // columns for i in range(columns + 1)]
  means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
  low, high = min(means), max(means)
  scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
  return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def _starts(workdir: Path) -> Sequence[dict[str, Any]]:
  try:
    starts = read_json(workdir / RUN_NOTES).get("starts")
  except (UserError, OSError):
    return ()
  return starts if isinstance(starts, list) and all(isinstance(start, dict) for start in starts) else ()


def _rate(rows: Sequence[dict[str, Any]], batch_sizes: Mapping[str, int]) -> float | None:
  if not rows or "videos_per_sec" not in rows[-1] or rows[-1]["stage"] not in batch_sizes:
    return None
  return rows[-1]["videos_per_sec"] / batch_sizes[rows[-1]["stage"]]


def _trainer(workdir: Path) -> str | None:
  """Return who trains in a workdir: the holder of its lease, or of its lock on this machine."""
  if is_remote(workdir):
    found = read_holder(workdir)
    return found[0] if found and found[1] < LAPSES else None
  try:
    inode = (workdir / ".lock").stat().st_ino
    locks = Path("/proc/locks").read_text(encoding="utf-8")
  except OSError:
    return None
  match = re.search(rf"FLOCK\s+ADVISORY\s+WRITE\s+(\d+)\s+\w+:\w+:{inode}\s", locks)
  return f"process {match[1]} of host {os.uname().nodename}" if match else None


def _age(path: Path) -> float | None:
  try:
    return max(0.0, time.time() - path.stat().st_mtime)
  except OSError:
    return None


def _ago(seconds: float | None) -> str:
  return "some time ago" if seconds is None else f"{_duration(seconds)} ago"


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}"
