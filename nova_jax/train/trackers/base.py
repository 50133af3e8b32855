"""What a tracker is."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of the log.

  Attributes:
    step: number of steps done.
    stage: name of the stage.
    values: means since the line before, and rates, by name.
    spent: seconds of this process by what they were spent on.
  """

  step: int
  stage: str
  values: Mapping[str, float]
  spent: Mapping[str, float]


class Tracker:
  """Follows a run; by itself it keeps nothing, and a subclass has the methods that it needs.

  Any method may raise any error, which ends the tracker and not the run.

  Attributes:
    title: what a person calls it.
  """

  title: ClassVar[str]

  def __init__(self, folder: Path, workdir: Path, first_step: int, notes: Mapping[str, Any]):
    """Begin to follow a run, or go on with it.

    Args:
      folder: local folder for files, which go to the workdir with each line if that lies in a bucket.
      workdir: folder of the run.
      first_step: steps that are done; what an earlier process wrote of later ones is void.
      notes: notes of the run, see `run_notes.begin`.
    """

  def line(self, line: Line) -> None:
    """Take the values of a line."""

  def picture(self, step: int, name: str, path: Path) -> None:
    """Take a picture, a PNG file on a disk or in a bucket."""

  def close(self) -> None:
    """Write what is left."""
