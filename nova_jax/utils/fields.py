"""Conversion between dataclasses, absl flags and JSON.

`to_config_dict` creates the ConfigDict that flags override, and `from_dict` converts it back to dataclasses at the
boundary of a program. Invariant: an unknown field or a wrong type is a `UserError` that names the field.
"""

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from nova_jax.utils.errors import UserError
from nova_jax.utils.renamed import RenamingDict, current_name

_KINDS = {
    int: "a whole number", float: "a number", bool: "True or False", str: "text", list: "a list", dict: "an object"}
_LONGEST = 200  # Largest number of characters of a value in an error.


def to_dict(config: Any) -> Any:
  """Convert a dataclass to dicts, tuples and scalars, ready for JSON."""
  return dataclasses.asdict(config)


def to_changes(config: Any) -> Any:
  """Convert a dataclass to JSON's types without the fields that have their defaults.

  It identifies a config: a field that a later version adds leaves the identity of what was made before as it is. A
  default that changes would go unseen, so a test of the sweeps holds the experiment's to what they were.
  """
  if isinstance(config, (tuple, list)):
    return [to_changes(value) for value in config]
  if not dataclasses.is_dataclass(config):
    return config
  values = {field.name: (getattr(config, field.name), field.default) for field in dataclasses.fields(config)}
  return {name: to_changes(value) for name, (value, default) in values.items() if value != default}


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
  """Convert an experiment to the locked ConfigDict that command-line flags override."""

  def convert(value):
    if dataclasses.is_dataclass(value):
      return RenamingDict({field.name: convert(getattr(value, field.name)) for field in dataclasses.fields(value)})
    if isinstance(value, (tuple, list)):
      return tuple(convert(v) for v in value)
    return ml_collections.config_dict.placeholder(object) if value is None else value

  return convert(config).lock()


_hints = functools.cache(typing.get_type_hints)  # A manifest has many thousand shards of one class.


def from_dict(cls: type[Any], values: Mapping[str, Any], path: str = "config", *, tell_renamed: bool = True) -> Any:
  """Create the dataclass `cls` from nested mappings, and check names and types.

  Args:
    cls: frozen dataclass.
    values: mapping or ConfigDict of its fields; missing ones take their defaults.
    path: prefix of names in error messages.
    tell_renamed: whether the user is told the new names of old ones; not where an earlier run wrote them.

  Raises:
    UserError: a field is unknown (the error suggests the nearest one), missing or of a wrong type.
  """
  if not isinstance(values, (Mapping, ml_collections.ConfigDict)):
    raise UserError(f"{path}: expected the fields of a {cls.__name__}, got {values!r}")
  fields = {f.name: f for f in dataclasses.fields(cls)}
  hints = _hints(cls)
  values = {current_name(name, fields, tell_renamed): values[name] for name in values}
  for name in values:
    if name not in fields:
      raise UserError(f"{path}.{name} is not a field{did_you_mean(name, fields)}")
  required = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values]
  if required:
    raise UserError(f"{path} lacks {', '.join(required)}")
  return cls(**{name: _check(hints[name], values[name], f"{path}.{name}", tell_renamed) for name in values})


def shown(value: Any) -> str:
  """Return a value as errors show it; it may come from an untrusted file."""
  text = repr(value)
  return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def kind_name(kind: type | tuple[type, ...]) -> str:
  """Return what a value of a type is called where another one was found; of several types, the first one's."""
  first = kind[0] if isinstance(kind, tuple) else kind
  return _KINDS.get(first, first.__name__)


def did_you_mean(name: Any, known: typing.Iterable[str]) -> str:
  """Return a hint that ends an error about an unknown name, which may be no text at all."""
  known = list(known)
  if nearest := _nearest(str(name), known):
    *others, last = map(repr, nearest)
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"
  return f"; known: {', '.join(sorted(known))}"


def _nearest(name: str, known: list[str]) -> list[str]:
  """Return at most three known names that were most likely meant, by the first rule that finds any."""
  plain = lambda text: re.sub(r"[^a-z0-9]", "", text.lower())
  typed = plain(name)
  if not typed:
    return []
  letters = re.compile(".*".join(map(re.escape, typed)))
  rules = (
      lambda other: plain(other) == typed,
      lambda other: plain(other).startswith(typed),
      lambda other: len(plain(other)) > 1 and typed.startswith(plain(other)),
      lambda other: typed in other.lower().split("_"),
      lambda other: other in difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6),
      lambda other: len(typed) > 1 and other[:1].lower() == typed[0] and letters.match(plain(other)),
      lambda other: other in difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5),
  )
  return next((found for rule in rules if (found := [other for other in known if rule(other)])), [])[:3]


def _check(hint: Any, value: Any, path: str, tell_renamed: bool) -> Any:
  """Return `value` as type `hint` (a dataclass, scalar, optional or tuple); raises UserError that names `path`.

  A text may stand for a dataclass that needs one alone, as the path of a cache does.
  """
  if dataclasses.is_dataclass(hint):
    needed = [field for field in dataclasses.fields(hint) if field.default is dataclasses.MISSING]
    if isinstance(value, str) and [field.type for field in needed] == [str]:
      value = {needed[0].name: value}
    return from_dict(hint, value, path, tell_renamed=tell_renamed)
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (types.UnionType, typing.Union):
    return None if value is None else _check(next(a for a in args if a is not type(None)), value, path, tell_renamed)
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      raise UserError(f"{path}: expected a tuple, got {shown(value)}")
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
    if len(kinds) != len(value):
      raise UserError(f"{path}: expected {len(kinds)} values, got {shown(value)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_check(kind, element, f"{path}[{i}]", tell_renamed) for i, (kind, element) in pairs)
  if hint is float and type(value) is int:
    value = float(value)
  if type(value) is not hint:
    raise UserError(f"{path}: expected {kind_name(hint)}, got {shown(value)}")
  if hint is float and not math.isfinite(value):
    raise UserError(f"{path}: expected a finite number, got {shown(value)}")
  return value
