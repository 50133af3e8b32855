"""Weights & Biases, a service that shows runs in a browser, or offline its files in `wandb/`.

Its own environment variables say where a run goes: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_API_KEY and others.
The run has the workdir's id, so that a restart goes on with it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nova_jax.media.pictures import read_picture
from nova_jax.train.trackers.base import Line, Tracker
from nova_jax.utils.terminal import say

_PROJECT = "nova_jax"
_LAST_UPLOAD = 300.0  # Seconds that the end of a run waits for the network.


class WeightsAndBiases(Tracker):
  """Gives lines, pictures and notes to a run of Weights & Biases."""

  title = "Weights & Biases"

  def __init__(self, folder: Path, workdir: Path, first_step: int, notes: Mapping[str, Any]):
    del first_step  # Steps that are done again give the same values again.
    import wandb  # Takes seconds, and is an extra.

    self._wandb = wandb
    # Its own count of steps never goes back, as a run does that was killed.
    settings = wandb.Settings(console="off", silent=True, disable_git=True, finish_timeout=_LAST_UPLOAD)
    self._run = wandb.init(
        id=notes["id"], resume="allow", name=workdir.name, project=os.environ.get("WANDB_PROJECT", _PROJECT),
        dir=folder, config={**notes["config"], "run": {k: v for k, v in notes.items() if k != "config"}},
        allow_val_change=True, settings=settings)
    self._run.define_metric("*", step_metric="step")
    where = f"offline, in {Path(self._run.dir).parent}" if self._run.offline else self._run.url
    say(f"{self.title}: {where}")

  def line(self, line: Line) -> None:
    self._run.log({"step": line.step, **line.values})

  def picture(self, step: int, name: str, path: Path) -> None:
    self._run.log({"step": step, name: self._wandb.Image(read_picture(path))})

  def close(self) -> None:
    self._run.finish()
