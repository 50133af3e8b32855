"""Checks shapes and dtypes against jaxtyping's annotations while tests run.

`python -m pytest --jaxtyping-packages=nova_jax.models,array_types.check` checks the calls of a package's functions.
"""

import typing
from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping

_check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
  """Wrap a function so that it checks its arrays; what else it takes may be replaced by a test's stand-in."""
  function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _holds_arrays(hint)}
  return _check(function)


def _holds_arrays(hint: Any) -> bool:
  if isinstance(hint, type):
    return issubclass(hint, jaxtyping.AbstractArray)
  return any(map(_holds_arrays, hint if isinstance(hint, list) else typing.get_args(hint)))
