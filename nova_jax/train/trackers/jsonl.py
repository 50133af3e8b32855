"""JSON lines, in `metrics.jsonl`: the one log that ends, after any restart, equal to an uninterrupted run's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nova_jax.train.trackers.base import Line, Tracker
from nova_jax.utils.files import write_atomically
from nova_jax.utils.renamed import current_metrics
from nova_jax.utils.terminal import say

NAME = "metrics.jsonl"


class JsonLines(Tracker):
  """Appends lines to a file; those that could not be written wait for the next one."""

  title = NAME

  def __init__(self, folder: Path, workdir: Path, first_step: int, notes: Mapping[str, Any]):
    del notes
    self._path, self._unwritten, self._error = folder / NAME, b"", None
    dropped = cut_lines(self._path, first_step)
    if dropped:
      say(f"note: {workdir / NAME}: dropped {dropped} line{'s' * (dropped > 1)} that no training wrote")
    with self._path.open("ab") as file:
      self._size = file.tell()

  def line(self, line: Line) -> None:
    row = {"step": line.step, "stage": line.stage, **line.values, "spent": line.spent}
    self._add((json.dumps(row) + "\n").encode())

  def close(self) -> None:
    """Write what waits.

    Raises:
      OSError: there are lines that could not be written.
    """
    if self._unwritten:
      self._add(b"")
    if self._error is not None:
      raise OSError(self._error.errno, f"{self._error.strerror}; its last lines are lost", str(self._path))

  def _add(self, text: bytes) -> None:
    self._unwritten += text
    try:
      with self._path.open("r+b") as file:
        file.truncate(self._size)  # Half a line, if the disk was full.
        file.seek(self._size)
        file.write(self._unwritten)
    except OSError as error:
      if self._error is None:
        say(f"note: {self._path} can't be written ({error.strerror}); training goes on, and its lines wait")
      self._error = error
    else:
      self._size, self._unwritten, self._error = self._size + len(self._unwritten), b"", None


def read_rows(path: Path) -> list[dict[str, Any]]:
  """Return the records of steps in a file, which may be growing; none if there is no file."""
  if not path.is_file():
    return []
  return [current_metrics(json.loads(line)) for line in path.read_bytes().splitlines() if _step(line) is not None]


def cut_lines(path: Path, last_step: int) -> int:
  """Cut the lines after `last_step`, one that a kill left half-written, and any that are no record of a step.

  Returns:
    The number of whole lines that are no record of a step.
  """
  if not path.exists():
    return 0
  content = path.read_bytes()
  kept, dropped = [], 0
  for line in content.splitlines(keepends=True):
    step = _step(line)
    dropped += step is None and line.endswith(b"\n")
    if step is not None and step <= last_step and line.endswith(b"\n"):
      kept.append(line)
  if b"".join(kept) != content:  # Else nothing needs room on the disk.
    write_atomically(path, b"".join(kept))
  return dropped


def _step(line: bytes) -> int | None:
  try:
    step = json.loads(line)["step"]
  except (ValueError, RecursionError, KeyError, TypeError, IndexError):
    return None
  return step if type(step) is int else None
