"""Ranges of numbers, declared in the type of a dataclass field: `steps: Annotated[int, Range(1, 10)]`.

Invariant: a value outside its range is a `UserError` with the full name of the field, the range and the value.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from nova_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
  """Finite numbers from `low` to `high`; `open` names excluded bounds: "low", "high" or "both"."""

  low: float
  high: float = math.inf
  open: str = ""

  def __contains__(self, value: float) -> bool:
    if not math.isfinite(value):
      return False
    above = value > self.low if self.open in ("low", "both") else value >= self.low
    return above and (value < self.high if self.open in ("high", "both") else value <= self.high)

  def __str__(self) -> str:
    low, high = f"{self.low:.12g}", f"{self.high:.12g}"
    least = f"more than {low}" if self.open in ("low", "both") else f"{low} or more"
    if self.high == math.inf:
      return least
    if not self.open:
      return f"{low} to {high}"
    return f"{least} and {'less than' if self.open in ('high', 'both') else 'at most'} {high}"


def check_ranges(config: Any, path: str = "") -> None:
  """Check all numbers of a dataclass and of the dataclasses in it.

  Args:
    config: dataclass to check.
    path: name of the dataclass, which prefixes the names of its fields.

  Raises:
    UserError: a number is outside its range, or not finite.
  """
  for name, hint in _hints(type(config)).items():
    for place, value, allowed in _numbers(f"{path}.{name}" if path else name, getattr(config, name), hint):
      if allowed is not None and value not in allowed:
        raise UserError(f"{place}: expected {allowed}, got {value!r}")


def numeric_fields(config: Any, path: str = "") -> dict[str, Range | None]:
  """Return the range of each number in a dataclass and the dataclasses in it, by name; None without a range."""
  return {
      place: allowed for name, hint in _hints(type(config)).items()
      for place, _, allowed in _numbers(f"{path}.{name}" if path else name, getattr(config, name), hint)}


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
  hints = typing.get_type_hints(cls, include_extras=True)
  return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _numbers(place: str, value: Any, hint: Any) -> Iterator[tuple[str, int | float, Range | None]]:
  """Yield name, value and range of each number in a value."""
  if dataclasses.is_dataclass(value):
    for name, inner in _hints(type(value)).items():
      yield from _numbers(f"{place}.{name}", getattr(value, name), inner)
  elif isinstance(value, Sequence) and not isinstance(value, str):
    kinds = [kind for kind in typing.get_args(hint) if kind is not Ellipsis]
    for i, element in enumerate(value):
      yield from _numbers(f"{place}[{i}]", element, kinds[min(i, len(kinds) - 1)])
  elif isinstance(value, (int, float)) and not isinstance(value, bool):
    yield place, value, _range(hint)


def _range(hint: Any) -> Range | None:
  """Return the range that a type declares, including a type `Annotated[…] | None`."""
  if typing.get_origin(hint) is typing.Annotated:
    return next((extra for extra in hint.__metadata__ if isinstance(extra, Range)), None)
  return next(filter(None, map(_range, typing.get_args(hint))), None)
