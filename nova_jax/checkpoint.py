"""The one place that writes and reads checkpoints (Orbax).

A checkpoint is a folder named by its step with three items: `state`, arrays by name ("params/video_encoder/…",
"ema/…", "opt_state/…", "buffers/…", "step"); `data`, the loader's position; `meta`, anything else as JSON.
Invariant: Orbax renames a finished folder into place, so a folder with a bare number for a name is complete, whatever
killed the process; leftovers of other names are ignored, and swept up by the next `Checkpointer`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

STATE = "state"  # The item, and folder, with the arrays.
_NAMES_IN_AN_ERROR = 5


class Checkpointer:
  """Saves a run's checkpoints in the background, keeping the newest `keep`."""

  def __init__(self, directory: str | Path, keep: int):
    if keep < 1:
      raise ValueError(f"train.keep: expected 1 or more checkpoints, got {keep}")
    self.directory = Path(directory).absolute()
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
    """
    if step in self._manager.all_steps():
      return
    self._manager.save(step, args=ocp.args.Composite(
        state=ocp.args.StandardSave(_flatten(state)), data=ocp.args.JsonSave(data), meta=ocp.args.JsonSave(meta)))

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Read a checkpoint onto any mesh.

    Args:
      step: of a finished checkpoint.
      like: the state as `ShapeDtypeStruct`s with the shardings wanted.

    Returns:
      The state, and the items `data` and `meta`.

    Raises:
      ValueError: names, shapes or dtypes differ; the error lists them.
    """
    self.wait()
    state = _read_arrays(self.directory / str(step), like)
    json_items = ocp.args.Composite(data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore())
    items = self._manager.restore(step, args=json_items)
    return state, items.data, items.meta

  def reached_preemption(self, step: int) -> bool:
    """Return whether the machines of a multi-host run agreed to stop after this step."""
    return self._manager.reached_preemption(step)

  def wait(self) -> None:
    """Block until all checkpoints are on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Wait, and free the threads."""
    self._manager.close()


def finished_steps(directory: str | Path) -> list[int]:
  """Return the steps of the finished checkpoints in `directory`, which need not exist."""
  return sorted(ocp.utils.checkpoint_steps(Path(directory).absolute())) if Path(directory).is_dir() else []


def latest_step(directory: str | Path) -> int:
  """Return the step of the newest finished checkpoint in `directory`.

  Raises:
    ValueError: there is no such folder, or no finished checkpoint in it.
  """
  if not Path(directory).is_dir():
    raise ValueError(f"{directory} is not a folder; expected the checkpoints/ folder of a training run")
  steps = finished_steps(directory)
  if not steps:
    raise ValueError(f"{directory} has no finished checkpoint; expected the checkpoints/ folder of a training run")
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
    raise ValueError(f'weights: expected "ema" or "params", got {which!r}')
  newest = latest_step(directory)
  folder = Path(directory).absolute() / str(newest if step is None else step)
  if not folder.is_dir():
    raise ValueError(f"{directory} has no checkpoint of step {step}; the newest is {newest}")
  return folder


@dataclasses.dataclass(frozen=True)
class Stored:
  """An array that is somewhere else; `read` reads or makes it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def save_arrays(folder: str | Path, arrays: Mapping[str, Stored]) -> None:
  """Write arrays by name into a folder that has none, one after the other: memory holds one of them."""
  registry = ocp.type_handlers.create_type_handler_registry(
      (Stored, _StoredHandler(deepcopy_host_arrays=False)), (jax.Array, ocp.type_handlers.ArrayHandler()))
  # Weights hardly compress, and writing them takes three times as long with compression.
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(Path(folder).absolute() / STATE, args=ocp.args.PyTreeSave(dict(arrays)))


class _StoredHandler(ocp.type_handlers.NumpyHandler):
  """Writes a `Stored` as the numpy array that it reads."""

  async def serialize(self, values, infos, args=None):
    args = args or [ocp.SaveArgs()] * len(values)
    for value, info, arg in zip(values, infos, args):
      for future in await super().serialize([value.read()], [info], [arg]):
        future.result()  # Ends before the next array is read.
    return []

  def memory_size(self, values):
    return [(value.nbytes, value.nbytes) for value in values]


def stored_arrays(folder: str | Path) -> dict[str, Stored]:
  """Return the arrays of a checkpoint or of a converted part, by name, not read yet.

  Raises:
    ValueError: the folder holds none.
  """
  folder = Path(folder).absolute()
  metadata = _stored(folder)

  def read(name: str) -> np.ndarray:
    return _restore(folder, {name: metadata[name]}, {name: ocp.RestoreArgs(restore_type=np.ndarray)})[name]

  return {
      name: Stored(tuple(leaf.shape), np.dtype(leaf.dtype), functools.partial(read, name))
      for name, leaf in metadata.items()}


def _read_arrays(folder: Path, like: Any) -> Any:
  """Read the arrays that `like` names; there must be no others."""
  wanted, stored = _flatten(like), _stored(folder)
  missing = wanted.keys() - stored.keys()
  unknown = stored.keys() - wanted.keys()
  differ = [
      f"{name}: {stored[name].shape} {stored[name].dtype} stored, {leaf.shape} {leaf.dtype} expected"
      for name, leaf in wanted.items()
      if name in stored and (tuple(stored[name].shape), stored[name].dtype) != (tuple(leaf.shape), leaf.dtype)]
  problems = [
      f"{what}: {_some(names)}"
      for what, names in (("missing", missing), ("not expected", unknown), ("different", differ)) if names]
  if problems:
    raise ValueError(f"checkpoint {folder} does not fit the model: {'; '.join(problems)}")
  flat = _restore(folder, wanted, ocp.checkpoint_utils.construct_restore_args(wanted))
  return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in wanted])


def _stored(folder: Path) -> dict[str, Any]:
  """Return shape and dtype of the stored arrays, by name."""
  try:
    with ocp.PyTreeCheckpointer() as checkpointer:
      metadata = checkpointer.metadata(folder / STATE).item_metadata if (folder / STATE).is_dir() else None
    tree = None if metadata is None else dict(metadata.tree)
  except Exception as error:  # Of many types, for files that aren't what Orbax wrote.
    raise ValueError(f"{folder / STATE} can't be read; it is damaged or incomplete ({_first_line(error)})") from None
  if tree is None:
    raise ValueError(f"{folder} holds no arrays; it is not a checkpoint, or a damaged one")
  return tree


def _restore(folder: Path, wanted: Mapping[str, Any], restore_args: Mapping[str, Any]) -> dict[str, Any]:
  args = ocp.args.PyTreeRestore(dict(wanted), restore_args=dict(restore_args), partial_restore=True)
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      return checkpointer.restore(folder / STATE, args=args)
  except Exception as error:
    raise ValueError(f"{folder / STATE} can't be read; it is damaged or incomplete ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _flatten(tree: Any) -> dict[str, Any]:
  """Return the leaves by their paths, in the order of `jax.tree.leaves`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _some(names: Iterable[str]) -> str:
  names = sorted(names)
  more = len(names) - _NAMES_IN_AN_ERROR
  return ", ".join(names[:_NAMES_IN_AN_ERROR]) + (f" and {more} more" if more > 0 else "")
