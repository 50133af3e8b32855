"""How a setting is declared: once, as the metadata of its field of `Request`.

Flags, the columns of prompt files, the fields of sweeps, benchmarks and the demo, and the documentation of
`Pipeline.__call__` are derived from it.
Invariant: nothing outside `request.py` names the type, the range or the meaning of a setting.
"""

import dataclasses
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from nova_jax.config import LARGEST
from nova_jax.utils.errors import UserError

Scope = Literal["content", "sampling", "array"]
_KEY = "setting"
Function = TypeVar("Function", bound=Callable)


@dataclasses.dataclass(frozen=True)
class Setting:
  """The declaration of one setting.

  Attributes:
    kind: type of its value in a flag or a file; several types if it has several forms.
    help: sentences that say what it means; `name` stands for another setting.
    unset: value that it takes when it is left out, in words; "" if there is nothing to say.
    low, high: bounds of a number; None for no bound. A whole number is at most `LARGEST`.
    choices: names that it can be; empty for any value.
    scope: "content" says what to show; "sampling" how to sample it, which sweeps and benchmarks may vary; "array" is
      for callers in Python alone.
    flag: name of its flag, where that is not the setting's name.
    label: name of its field on the demo's page.
    names_file: whether a text is the path of a file.
    per_clip: whether clips that are generated together may differ in it.
    one_each: whether it can be several numbers, one for each clip that is generated together.
    stored_as: name that files of outputs store it by, where that is not the setting's name.
  """

  kind: type | tuple[type, ...]
  help: str
  unset: str = ""
  low: float | None = None
  high: float | None = None
  choices: tuple[str, ...] = ()
  scope: Scope = "sampling"
  flag: str | None = None
  label: str | None = None
  names_file: bool = False
  per_clip: bool = False
  one_each: bool = False
  stored_as: str | None = None

  def describe(self, flags: Mapping[str, str] | None = None) -> str:
    """Return the help and the default, with other settings by their flags if `flags` has these by setting."""
    text = f"{self.help} Default: {self.unset}." if self.unset else self.help
    return text if flags is None else re.sub(r"`(\w+)`", lambda match: f"--{flags.get(match[1], match[1])}", text)

  def check(self, name: str, value: Any) -> None:
    """Refuse a value that no model can do.

    Raises:
      UserError: it names the setting.
    """
    if self.choices and (not isinstance(value, str) or value not in self.choices):
      raise UserError(f"{name}: expected one of {', '.join(self.choices)}, got {shorten(value)}")
    if self.kind is int and self.low is not None:
      if not is_whole(value):
        raise UserError(f"{name}: expected a whole number, got {value!r}")
      if value < self.low or value > LARGEST:
        limit = f"at least {self.low:g}" if value < self.low else f"at most {LARGEST}"
        raise UserError(f"{name}: expected {limit}, got {value}")
    if self.kind is float:
      values = np.asarray(value)
      if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise UserError(f"{name}: expected a finite number, got {shorten(value)}")
      if values.ndim > self.one_each:
        raise UserError(f"{name}: expected one number{' or one for each clip' * self.one_each}, got {shorten(value)}")
      if self.low is not None and (np.min(values) < self.low or np.max(values) > self.high):
        raise UserError(f"{name}: expected {self.low:g} to {self.high:g}, got {value}")


def setting(kind: type | tuple[type, ...], help: str, default: Any = None, **options: Any) -> Any:
  """Declare a field of `Request`; `options` are further fields of `Setting`."""
  return dataclasses.field(default=default, metadata={_KEY: Setting(kind, help, **options)})


def declared_settings(cls: type[Any]) -> dict[str, Setting]:
  """Return the declarations of a dataclass, by name."""
  return {field.name: field.metadata[_KEY] for field in dataclasses.fields(cls)}


def document_settings(declared: Mapping[str, Setting]) -> Callable[[Function], Function]:
  """Put the settings into the docstring of a function that has them as arguments, at `{settings}`."""

  def decorate(function: Function) -> Function:
    lines = [
        textwrap.fill(f"{name}: {one.describe()}", 120, initial_indent=" " * 6, subsequent_indent=" " * 8)
        for name, one in declared.items()]
    if function.__doc__:  # Python leaves docstrings out with -OO.
      function.__doc__ = function.__doc__.replace("{settings}", "\n".join(lines))
    return function

  return decorate


def shorten(value: Any) -> str:
  """Return a short text that stands for a value in an error."""
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:80]}…"


def is_whole(value: Any) -> bool:
  """Whether a value is a whole number, and no truth value."""
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
