"""The one place that writes and reads checkpoints (Orbax).

A checkpoint is a folder named by its step with four items: `state`, arrays by name ("params/video_encoder/…",
"ema/…", "opt_state/…", "buffers/…", "step"); `data`, the loader's position; `meta`, anything else as JSON; and
`digests`, what the arrays and the JSON must be (`digests.py`), which checkpoints of older versions lack.
Invariants: Orbax renames a finished folder into place, so a folder with a bare number for a name is complete, whatever
killed the process; leftovers of other names are ignored, and swept up by the next `Checkpointer`. What is read is what
was saved (`stored.py`).
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orbax.checkpoint as ocp
from absl import logging

from nova_jax.checkpoints import array_digests
from nova_jax.checkpoints.arrays import (
  STATE,
  Damaged,
  LazyArray,
  finished_steps,
  flatten,
  open_arrays,
  read_arrays,
  read_digests,
  read_item,
  save_arrays,
  summarize_names,
)
from nova_jax.parallel.processes import all_gather, barrier, broadcast_from_first, is_first
from nova_jax.utils.errors import RunFailed, UserError, error_numbers

__all__ = [
    "STATE", "Checkpointer", "Damaged", "Restored", "LazyArray", "find", "finished_steps", "latest_step", "save_arrays",
    "open_arrays"]


class Restored(NamedTuple):
  """A checkpoint that was read.

  Attributes:
    step: its name.
    state: arrays like those asked for.
    data: position of the loader.
    meta: anything else.
    set_aside: a line for each newer checkpoint that was damaged.
  """

  step: int
  state: Any
  data: dict[str, Any]
  meta: dict[str, Any]
  set_aside: tuple[str, ...] = ()


class Checkpointer:
  """Saves a run's checkpoints in the background, keeping the newest `keep`."""

  def __init__(self, directory: str | Path, keep: int):
    if keep < 1:
      raise UserError(f"train.keep: expected 1 or more checkpoints, got {keep}")
    self.directory = Path(directory).absolute()
    self._saving: int | None = None
    logging.get_absl_logger().addFilter(_is_news)
    self._manager = ocp.CheckpointManager(
        self.directory,
        options=ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True, preservation_policy=ocp.checkpoint_managers.LatestN(keep)))

  def latest_step(self) -> int | None:
    """Return the step of the newest checkpoint whose writing has begun in this process or ended in any."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, data: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Start to save; returns when the arrays may change. Does nothing if the step is saved already.

    Args:
      step: names the checkpoint.
      state: a pytree of arrays.
      data: position of the loader, ready for JSON.
      meta: anything else, ready for JSON.

    Raises:
      RunFailed: this checkpoint, or the one before, can't be written; those that were finished are kept.
    """
    if step in self._manager.all_steps():
      return
    flat = flatten(state)
    described = {
        "arrays": array_digests.describe(flat),
        "json": {"data": array_digests.digest_json(data), "meta": array_digests.digest_json(meta)}}
    with self._storing():
      self._manager.wait_until_finished()
      self._saving = step
      self._manager.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(flat), data=ocp.args.JsonSave(data), meta=ocp.args.JsonSave(meta),
          digests=ocp.args.JsonSave(described)))

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Read a checkpoint onto any mesh.

    Args:
      step: of a finished checkpoint.
      like: the state as `ShapeDtypeStruct`s with the shardings wanted.

    Returns:
      The state, and the items `data` and `meta`.

    Raises:
      ValueError: names, shapes or dtypes differ; the error lists them.
      Damaged: it isn't what was saved, as any of the processes finds.
      OSError: the storage fails.
    """
    self.wait()
    folder, described, reason = self.directory / str(step), None, ""
    try:
      described, data, meta = _read_items(folder)
      state = read_arrays(folder, like, described)
    except Damaged as error:
      reason = error.reason
    # What is computed by all processes together comes after they know that all of them have the arrays.
    reasons = all_gather(reason)
    if not any(reasons) and described is not None:
      now = array_digests.describe(flatten(state))
      altered = [name for name, text in described.items() if now[name] != text]
      reasons = [f"{summarize_names(altered)} changed since" if altered else ""]
    if any(reasons):
      raise Damaged(folder, next(filter(None, reasons)))
    return state, data, meta

  def restore_newest(self, like: Any) -> Restored | None:
    """Read the newest checkpoint that is whole, and rename newer ones to `STEP.damaged`; all processes agree.

    Args:
      like: see `restore`, as are the errors.

    Returns:
      What was read; None if there are no checkpoints.

    Raises:
      RunFailed: there are some, and none is whole; they stay where they are.
    """
    damaged: dict[int, str] = {}
    steps = broadcast_from_first(finished_steps(self.directory))
    for step in reversed(steps):
      try:
        found = Restored(step, *self.restore(step, like))
      except Damaged as error:
        damaged[step] = error.reason
        continue
      notes = tuple(f"checkpoint {step} is damaged ({why}); it is kept as {step}.damaged"
                    for step, why in damaged.items())
      self._set_aside(damaged)
      return found._replace(set_aside=notes)
    if not steps:
      return None
    reasons = "; ".join(f"{step}: {why}" for step, why in damaged.items())
    raise RunFailed(
        f"no checkpoint in {self.directory} is whole ({reasons}); bring back a copy of one, or remove the folder to "
        "begin anew")

  def _set_aside(self, steps: Collection[int]) -> None:
    if not steps:
      return
    for step in steps if is_first() else ():
      name = f"{step}.damaged"
      while (self.directory / name).exists():
        name += "+"
      (self.directory / str(step)).rename(self.directory / name)
    barrier("set aside")
    self._manager.reload()  # Else the step would count as saved already.

  def reached_preemption(self, step: int) -> bool:
    """Return whether the machines of a multi-host run agreed to stop after this step."""
    return self._manager.reached_preemption(step)

  def wait(self) -> None:
    """Block until all checkpoints are on disk; errors as of `save`."""
    with self._storing():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Wait, and free the threads; errors as of `save`."""
    with self._storing():
      self._manager.close()

  @contextlib.contextmanager
  def _storing(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # Of several types, with a text of many lines.
      numbers = [*error_numbers(error)]
      if not numbers:
        raise
      raise RunFailed(
          f"{self.directory / str(self._saving)}: this checkpoint can't be written: {os.strerror(numbers[0])}; those "
          "before it are kept, and the same command continues from them") from None


def _is_news(record: Any) -> bool:
  """Whether a log record isn't one of an error that Orbax's threads print, with traceback, and pass on as well."""
  return not (record.exc_info and "orbax" in record.pathname)


def latest_step(directory: str | Path) -> int:
  """Return the step of the newest finished checkpoint in `directory`.

  Raises:
    ValueError: there is no such folder, or no finished checkpoint in it.
  """
  if not Path(directory).is_dir():
    raise UserError(f"{directory} is not a folder; expected the checkpoints/ folder of a training run")
  steps = finished_steps(directory)
  if not steps:
    raise UserError(f"{directory} has no finished checkpoint; expected the checkpoints/ folder of a training run")
  return max(steps)


def find(directory: str | Path, which: str = "ema", step: int | None = None) -> Path:
  """Return the folder of a checkpoint.

  Args:
    directory: the checkpoints/ folder of a training run.
    which: "ema" for the average, "params" for the last weights.
    step: of the checkpoint; None takes the newest.

  Raises:
    ValueError: no such checkpoint there.
  """
  if which not in ("ema", "params"):
    raise UserError(f'weights: expected "ema" or "params", got {which!r}')
  newest = latest_step(directory)
  folder = Path(directory).absolute() / str(newest if step is None else step)
  if not folder.is_dir():
    raise UserError(f"{directory} has no checkpoint of step {step}; the newest is {newest}")
  return folder


def _read_items(folder: Path) -> tuple[dict[str, str] | None, dict[str, Any], dict[str, Any]]:
  """Return the descriptions of the arrays, if the checkpoint has them, and the items `data` and `meta`."""
  described = read_digests(folder)
  items = {name: read_item(folder, name) for name in ("data", "meta")}
  if described is not None:
    for name, value in items.items():
      if described["json"].get(name) != array_digests.digest_json(value):
        raise Damaged(folder, f"{name}/ changed since")
  return described and described["arrays"], items["data"], items["meta"]
