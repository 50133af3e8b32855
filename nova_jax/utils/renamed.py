"""Fields and metrics that have a new name: the old one works for one more release, and a note says the new one.

Configs meet old names as arguments of a dataclass, as attributes of a ConfigDict, as flags and in files. Invariant: the
old name stands for the new one where the new one is known and the old one is not.
"""

import functools
from collections.abc import Container, Mapping
from typing import Any, TypeVar

import ml_collections

from nova_jax.utils.notes import tell

# New name by old one.
FIELDS = {
    "later": "mid_clip_fraction",
    "free_captions": "paraphrase_fraction",
    "turning": "turning_fraction",
    "share": "fraction",  # Of a stage, and of held-out records.
}
METRICS = {"matmul_share": "mfu"}

T = TypeVar("T")


def current_name(name: str, known: Container[str], note: bool = True) -> str:
  """Return the name that a field has now.

  Args:
    name: name as it was given.
    known: names of all fields.
    note: whether the user is told the new name.
  """
  new = FIELDS.get(name) if name not in known else None
  if new is None or new not in known:
    return name
  if note:
    tell_new_name(name, new)
  return new


def current_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
  """Return a line of `metrics.jsonl` with the names that metrics have now."""
  return {METRICS.get(name, name): value for name, value in row.items()}


def tell_new_name(old: str, new: str) -> None:
  """Tell the user what something is called now."""
  tell(f"{old} is called {new} now; the old name works for one more release")


def takes_old_names(cls: type[T]) -> type[T]:
  """Let a dataclass take its fields by their old names, and show them by these."""
  init, known = cls.__init__, cls.__annotations__

  @functools.wraps(init)
  def with_current_names(self, *args, **fields):
    for name in [name for name in fields if name not in known]:
      value = fields.pop(name)  # It wins over the new name, which `dataclasses.replace` gives as well.
      fields[current_name(name, known)] = value
    init(self, *args, **fields)

  cls.__init__ = with_current_names  # ty: ignore[invalid-assignment] (it takes what the dataclass's own takes)
  for old, new in FIELDS.items():
    if new in known:
      setattr(cls, old, property(lambda self, new=new: getattr(self, new)))
  return cls


class RenamingDict(ml_collections.ConfigDict):
  """A ConfigDict that finds its fields by their old names, too."""

  def __getitem__(self, key: str) -> Any:
    return super().__getitem__(self._current(key))

  def __setitem__(self, key: str, value: Any) -> None:
    super().__setitem__(self._current(key), value)

  def __contains__(self, key: str) -> bool:
    return super().__contains__(self._current(key))

  def get_type(self, key: str) -> type:
    return super().get_type(self._current(key))

  def _current(self, key: str) -> str:
    return current_name(key, self._fields)
