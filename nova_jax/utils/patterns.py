"""Regular expressions over the paths of parameters."""

import difflib
import re
from collections.abc import Sequence

from nova_jax.utils.errors import UserError


def matches(patterns: Sequence[str], path: str) -> bool:
  """Return whether one of the patterns is found in a path."""
  return any(re.search(pattern, path) for pattern in patterns)


def check_patterns(field: str, patterns: Sequence[str], paths: Sequence[str], what: str = "parameter") -> None:
  """Refuse a pattern that is no regular expression, or is found in none of the paths.

  Args:
    field: name of the setting that holds the patterns.
    patterns: regular expressions.
    paths: paths that they select from.
    what: what a path names.

  Raises:
    UserError: such a pattern; the text names paths near to it.
  """
  for pattern in patterns:
    try:
      found = any(re.search(pattern, path) for path in paths)
    except re.error as error:
      raise UserError(f"{field}: {pattern!r} is not a regular expression: {error}") from None
    if not found:
      modules = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 2)}
      near = difflib.get_close_matches(pattern, sorted(modules), n=3, cutoff=0.3)
      near = near or sorted({path.split("/")[0] for path in paths})
      raise UserError(f"{field}: no {what} matches {pattern!r}; near paths: {', '.join(near)}")
