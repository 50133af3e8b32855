"""The one place that writes and reads checkpoints (Orbax).

A checkpoint is a folder named by its step with four items: `state`, arrays by name ("params/video_encoder/…",
"ema/…", "opt_state/…", "buffers/…", "step"); `data`, the loader's position; `meta`, anything else as JSON; and
`digests`, what the arrays and the JSON must be (`array_digests.py`), which checkpoints of older versions lack.
Invariants: Orbax renames a finished folder into place, so a folder with a bare number for a name is complete, whatever
killed the process; leftovers of other names are ignored, and swept up by the next `Checkpointer`. What is read is what
was saved (`arrays.py`).
"""

import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from absl import logging

from nova_jax.checkpoints import array_digests
from nova_jax.checkpoints.arrays import (
  DIGESTS,
  STATE,
  Damaged,
  LazyArray,
  Restored,
  check_arrays,
  finished_steps,
  flatten,
  open_arrays,
  read_arrays,
  read_items,
  save_arrays,
  summarize_names,
)
from nova_jax.checkpoints.choice import BEST, SCORE, KeepBest, as_cost, find, latest_step, scores
from nova_jax.checkpoints.replicas import find_replicas, pass_all_on
from nova_jax.parallel.processes import all_gather, barrier, broadcast_from_first, is_first
from nova_jax.utils.errors import RunFailed, UserError, error_numbers
from nova_jax.utils.files import check_holds_runs
from nova_jax.utils.lease import check_held
from nova_jax.utils.terminal import say

__all__ = [
    "BEST", "SCORE", "STATE", "Checkpointer", "Damaged", "Restored", "LazyArray", "find", "finished_steps",
    "latest_step", "save_arrays", "open_arrays"]

_TRIES = 3  # Saves that may fail in a row before the run ends.
_PAUSE = 5.0  # Seconds before the last save of a run is tried again.


class Checkpointer:
  """Saves a run's checkpoints in the background, keeping the newest ones.

  A save that fails is told and costs nothing but this checkpoint: training goes on, and the next save tries again. The
  last save of a run is tried again by itself.
  """

  def __init__(
      self, directory: str | Path, keep: int, keep_every: int = 0, *, keep_steps: Sequence[int] = (), keep_best: int = 0
  ):
    """Open the folder of a run's checkpoints.

    Args:
      directory: folder on a disk or in a bucket; it need not exist.
      keep: number of the newest checkpoints that are kept.
      keep_every: steps whose multiples are kept as well, for evaluation; 0 keeps no others.
      keep_steps: other steps that are kept.
      keep_best: number of checkpoints with the best values (`SCORE` in the item `meta`) that are kept as well.
    """
    if keep < 1:
      raise UserError(f"train.keep: expected 1 or more checkpoints, got {keep}")
    self.directory = check_holds_runs(directory).absolute()
    self.directory.mkdir(parents=True, exist_ok=True)  # So that it is there when the only, unfinished step is removed.
    self._saving: tuple[int, ocp.args.Composite] | None = None  # What is under way, or failed.
    self._failed, self._begun = 0, True
    logging.get_absl_logger().addFilter(_is_news)
    kept = [ocp.checkpoint_managers.LatestN(keep), ocp.checkpoint_managers.CustomSteps(keep_steps)]
    self._scores = scores(self.directory) if keep_best else {}
    if keep_best:
      kept.append(KeepBest(self._scores, keep_best))
    if keep_every:
      kept.append(ocp.checkpoint_managers.EveryNSteps(keep_every))
    # Weights hardly compress: without, a save takes two thirds of the time and 8 % more room.
    state = ocp.PyTreeCheckpointHandler(use_compression=False)
    rest = {name: ocp.JsonCheckpointHandler() for name in ("data", "meta", DIGESTS)}
    self._manager = ocp.CheckpointManager(
        self.directory, item_handlers={STATE: state} | rest,
        options=ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(kept)))

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if kind is None or jax.process_count() == 1:
      self.close()
    else:  # The others are in a step, and would never answer.
      self._manager.close()

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
      RunFailed: this checkpoint and those before it can't be written, or another process has taken over the folder;
        checkpoints that were finished are kept.
    """
    if step in self._manager.all_steps():
      return
    check_held(self.directory)
    flat = flatten(state)
    described = {
        "arrays": array_digests.describe(flat),
        "json": {"data": array_digests.digest_json(data), "meta": array_digests.digest_json(meta)}}
    self._finish()
    if SCORE in meta:
      self._scores[step] = as_cost(meta[SCORE])
    self._begin(step, ocp.args.Composite(
        state=ocp.args.PyTreeSave(flat), data=ocp.args.JsonSave(data), meta=ocp.args.JsonSave(meta),
        digests=ocp.args.JsonSave(described)))

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Read a checkpoint onto any mesh.

    Args:
      step: of a finished checkpoint.
      like: the state as `ShapeDtypeStruct`s with the shardings wanted.

    Returns:
      The state, and the items `data` and `meta`.

    Raises:
      UserError: names, shapes or dtypes differ; the error lists them.
      Damaged: it isn't what was saved, as any of the processes finds.
      OSError: the storage fails.
    """
    self.wait()
    folder, described, reason = self.directory / str(step), None, ""
    wanted, flat = flatten(like), None
    replicas = find_replicas(list(wanted.values()))
    try:
      described, data, meta = read_items(folder)
      check_arrays(folder, wanted, described)
      if replicas is None:
        flat = read_arrays(folder, wanted)
      elif replicas.reads:
        flat = read_arrays(folder, {name: replicas.like(leaf) for name, leaf in wanted.items()})
    except Damaged as error:
      reason = error.reason
    # What is computed by all processes together comes after they know that all of them have the arrays.
    reasons = all_gather(reason)
    if not any(reasons) and replicas is not None:
      flat = pass_all_on(replicas, wanted, flat)
    if flat is not None and not any(reasons) and described is not None:
      now = array_digests.describe(flat)
      altered = [name for name, text in described.items() if now[name] != text]
      reasons = [f"{summarize_names(altered)} changed since" if altered else ""]
    if any(reasons):
      raise Damaged(folder, next(filter(None, reasons)))
    assert flat is not None  # Else there is a reason.
    state = jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in wanted])
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
      started = time.monotonic()
      try:
        found = Restored(step, *self.restore(step, like))
      except Damaged as error:
        damaged[step] = error.reason
        continue
      notes = tuple(f"checkpoint {step} is damaged ({why}); it is kept as {step}.damaged"
                    for step, why in damaged.items())
      self._set_aside(damaged)
      num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(found.state))
      replicas = find_replicas(jax.tree.leaves(like))
      return found._replace(
          set_aside=notes, seconds=time.monotonic() - started, num_bytes=num_bytes,
          num_replicas=1 if replicas is None else replicas.count)
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
    """Block until all checkpoints are stored; errors as of `save`."""
    while not self._finish() and self._saving is not None:
      if any(leaf.is_deleted() for leaf in self._saving[1].state.item.values() if isinstance(leaf, jax.Array)):
        return  # A step has taken the arrays since; the next save stores what it made.
      time.sleep(_PAUSE)
      self._begin(*self._saving)

  def close(self) -> None:
    """Wait, and free the threads; errors as of `save`."""
    self.wait()
    self._manager.close()

  def _begin(self, step: int, args: ocp.args.Composite) -> None:
    self._saving, self._begun = (step, args), True
    try:
      self._manager.save(step, args=args)
    except Exception as error:
      self._begun = False
      self._tell(_reason(error), is_last=jax.process_count() > 1)  # The others wait for this one within `save`.

  def _finish(self) -> bool:
    """Wait for the save that is under way; return whether it went well, or there is none."""
    reason = ""
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      reason = _reason(error)
    if self._saving is None or not self._begun:
      return self._saving is None
    reason = next(filter(None, all_gather(reason)), "")  # All processes save again, or none.
    if reason:
      self._tell(reason)
      return False
    self._saving, self._failed = None, 0
    return True

  def _tell(self, reason: str, is_last: bool = False) -> None:
    """Note that a save failed; raise a RunFailed if none is tried any more."""
    assert self._saving is not None
    self._failed += 1
    what = f"{self.directory / str(self._saving[0])}: this checkpoint can't be written: {reason}"
    if is_last or self._failed == _TRIES:
      self._saving = None
      raise RunFailed(f"{what}; those before it are kept, and the same command continues from them")
    if is_first():
      say(f"note: {what}; training goes on, and the next save tries again")
    self._manager.reload()  # Else the step would count as saved.


def _reason(error: Exception) -> str:
  """Return why storage failed; raises an error of another kind, of several types, with a text of many lines."""
  numbers = [*error_numbers(error)]
  if not numbers:
    raise error
  return os.strerror(numbers[0])


def _is_news(record: Any) -> bool:
  """Whether a log record isn't one of an error that Orbax's threads print, with traceback, and pass on as well."""
  return not (record.exc_info and "orbax" in record.pathname)
