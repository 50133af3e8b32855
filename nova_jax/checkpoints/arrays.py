"""Files of arrays (Orbax), for checkpoints and converted parts.

Invariant: arrays are read exactly as they were saved, or `Damaged` is raised. Failing storage is an `OSError` instead.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import math
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from nova_jax.checkpoints import array_digests
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError, error_numbers
from nova_jax.utils.files import check_holds_runs, read_json, write_atomically
from nova_jax.utils.terminal import command

STATE, DIGESTS = "state", "digests"  # Items of a checkpoint, whose folders have these names.
_NAMES_IN_AN_ERROR = 5


class Damaged(UserError):
  """A checkpoint differs from what was saved."""

  def __init__(self, folder: Path, reason: str):
    super().__init__(f"{folder} is damaged: {reason}{_advice(folder)}")
    self.reason = reason


class Restored(NamedTuple):
  """A checkpoint that was read.

  Attributes:
    step: its name.
    state: arrays like those asked for.
    data: position of the loader.
    meta: anything else.
    set_aside: a line for each newer checkpoint that was damaged.
    seconds: time that reading took, digests included.
    num_bytes: size of the arrays.
    num_replicas: number of replicas that got them, of which one has read them.
  """

  step: int
  state: Any
  data: dict[str, Any]
  meta: dict[str, Any]
  set_aside: tuple[str, ...] = ()
  seconds: float = 0.0
  num_bytes: int = 0
  num_replicas: int = 1


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """An array whose values are not in memory; `read` reads or computes them."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def save_arrays(folder: str | Path, arrays: Mapping[str, LazyArray]) -> None:
  """Write arrays and their digests into a folder without arrays; only one array at a time is in memory."""
  described = {}

  def noted(name: str, stored: LazyArray) -> LazyArray:
    def read() -> np.ndarray:
      array = stored.read()
      described.update(array_digests.describe({name: array}))
      return array

    return dataclasses.replace(stored, read=read)

  registry = ocp.type_handlers.create_type_handler_registry(
      (LazyArray, _LazyArrayHandler(deepcopy_host_arrays=False)), (jax.Array, ocp.type_handlers.ArrayHandler()))
  # Weights hardly compress, and writing them takes three times as long with compression.
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(check_holds_runs(folder).absolute() / STATE, args=ocp.args.PyTreeSave(
        {name: noted(name, stored) for name, stored in arrays.items()}))
  write_atomically(as_path(folder) / DIGESTS / "metadata", json.dumps({"arrays": described, "json": {}}))


class _LazyArrayHandler(ocp.type_handlers.NumpyHandler):
  """Writes a `LazyArray` as the NumPy array that it reads."""

  async def serialize(self, values, infos, args=None):
    args = args or [ocp.SaveArgs()] * len(values)
    for value, info, arg in zip(values, infos, args, strict=True):
      for future in await super().serialize([value.read()], [info], [arg]):
        future.result()  # Finishes before the next array is read.
    return []

  def memory_size(self, values):
    return [(value.nbytes, value.nbytes) for value in values]


def open_arrays(folder: str | Path) -> dict[str, LazyArray]:
  """Return the arrays of a checkpoint or a converted part by name, without reading their values.

  Raises:
    Damaged: the folder has no arrays. Reading an array also raises it if the array differs from what was saved.
  """
  folder = check_holds_runs(folder).absolute()
  metadata, described = _stored(folder), read_digests(folder)
  if described is not None:
    _check_names(folder, metadata, described["arrays"])

  def read(name: str) -> np.ndarray:
    array = _restore(folder, {name: metadata[name]}, {name: ocp.RestoreArgs(restore_type=np.ndarray)})[name]
    if described is not None and array_digests.describe({name: array})[name] != described["arrays"][name]:
      raise Damaged(folder, f"{name} changed since")
    return array

  return {
      name: LazyArray(tuple(leaf.shape), np.dtype(leaf.dtype), functools.partial(read, name))
      for name, leaf in metadata.items()}


def check_arrays(folder: Path, wanted: Mapping[str, Any], described: Mapping[str, str] | None) -> None:
  """Raise UserError if a folder has other arrays than those wanted, and Damaged if it has others than described."""
  stored = _stored(folder)
  if described is not None:
    _check_names(folder, stored, described)
  missing = wanted.keys() - stored.keys()
  unknown = stored.keys() - wanted.keys()
  differ = [
      f"{name}: {stored[name].shape} {stored[name].dtype} stored, {leaf.shape} {leaf.dtype} expected"
      for name, leaf in wanted.items()
      if name in stored and (tuple(stored[name].shape), stored[name].dtype) != (tuple(leaf.shape), leaf.dtype)]
  problems = [
      f"{what}: {summarize_names(names)}"
      for what, names in (("missing", missing), ("not expected", unknown), ("different", differ)) if names]
  if problems:
    raise UserError(f"checkpoint {folder} does not fit the model: {'; '.join(problems)}")


def read_arrays(folder: Path, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Read arrays by name, as `ShapeDtypeStruct`s with shardings describe them."""
  return _restore(folder, wanted, ocp.checkpoint_utils.construct_restore_args(wanted))


def _check_names(folder: Path, stored: Mapping[str, Any], described: Mapping[str, str]) -> None:
  if {name: array_digests.shape_text(leaf) for name, leaf in stored.items()} != {
      name: text.split()[0] for name, text in described.items()}:
    raise Damaged(folder, "its list of arrays changed since")


def _stored(folder: Path) -> dict[str, Any]:
  """Return shape and dtype of the stored arrays by name."""
  if not (folder / STATE).is_dir():
    raise Damaged(folder, f"it has no {STATE}/, the arrays of a checkpoint")
  # A checkpointer would also look for metadata that Orbax keeps elsewhere, and warn that there is none.
  with _reading(folder), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
    metadata = handler.metadata(folder / STATE)  # ty: ignore[invalid-argument-type] (any path will do)
    tree = None if metadata is None else dict(metadata.tree)
  if tree is None:
    raise Damaged(folder, f"what {STATE}/ holds can't be told from its files")
  return tree


def _restore(folder: Path, wanted: Mapping[str, Any], restore_args: Mapping[str, Any]) -> dict[str, Any]:
  args = ocp.args.PyTreeRestore(dict(wanted), restore_args=dict(restore_args), partial_restore=True)
  # Uses the handler directly. A checkpointer would wait for other processes, which may have stopped over damage.
  with _reading(folder), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
    return handler.restore(folder / STATE, args=args)  # ty: ignore[invalid-argument-type] (any path will do)


@contextlib.contextmanager
def _reading(folder: Path) -> Generator[None]:
  """Turn errors of Orbax and TensorStore, which have many types and lines, into `Damaged` or an `OSError`."""
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:
    numbers = [number for number in error_numbers(error) if number != errno.ENOENT]
    if numbers:
      raise OSError(numbers[0], os.strerror(numbers[0]), str(folder)) from None
    raise Damaged(folder, f"a file of its {STATE}/ is missing, cut off or changed") from None


def read_digests(folder: Path) -> dict[str, dict[str, str]] | None:
  """Return the descriptions of a checkpoint's `arrays` and `json`; None for an older checkpoint without them."""
  if not (folder / DIGESTS).is_dir():
    return None
  described = read_item(folder, DIGESTS)
  if not all(isinstance(described.get(name), dict) for name in ("arrays", "json")):
    raise Damaged(folder, f"{DIGESTS}/ changed since")
  return described


def read_item(folder: Path, name: str) -> dict[str, Any]:
  """Read a JSON item of a checkpoint."""
  try:
    return read_json(folder / name / "metadata")
  except ValueError as error:
    if isinstance(error.__context__, OSError) and error.__context__.errno != errno.ENOENT:
      raise error.__context__ from None
    raise Damaged(folder, f"{name}/ can't be read") from None


def read_items(folder: Path) -> tuple[dict[str, str] | None, dict[str, Any], dict[str, Any]]:
  """Return the descriptions of the arrays, if the checkpoint has them, and the items `data` and `meta`."""
  described = read_digests(folder)
  items = {name: read_item(folder, name) for name in ("data", "meta")}
  if described is not None:
    for name, value in items.items():
      if described["json"].get(name) != array_digests.digest_json(value):
        raise Damaged(folder, f"{name}/ changed since")
  return None if described is None else described["arrays"], items["data"], items["meta"]


def finished_steps(directory: str | Path) -> list[int]:
  """Return the steps of the finished checkpoints in `directory`, which may be missing."""
  directory = check_holds_runs(directory).absolute()
  return sorted(ocp.utils.checkpoint_steps(directory)) if directory.is_dir() else []


def _advice(folder: Path) -> str:
  """Return advice for a damaged checkpoint of a run that has others, or for a damaged converted part."""
  if not folder.name.isdigit():
    return "; convert the model anew"
  before = [step for step in finished_steps(folder.parent) if step < int(folder.name)]
  if not before:
    return ""
  one = f"{command('convert')} --step={before[-1]} takes the one before it"
  return f"; {one}, and training goes back to that one by itself"


def summarize_names(names: Iterable[str]) -> str:
  """Return the first names, sorted, and the number of the others, for errors."""
  names = sorted(names)
  more = len(names) - _NAMES_IN_AN_ERROR
  return ", ".join(names[:_NAMES_IN_AN_ERROR]) + (f" and {more} more" if more > 0 else "")


def flatten(tree: Any) -> dict[str, Any]:
  """Return the leaves of a tree by path, in the order of `jax.tree.leaves`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
