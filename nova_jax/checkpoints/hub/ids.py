"""Ids of models on the hub, ORG/NAME or ORG/NAME@REVISION, and what tells them from paths."""

import os
import re
from typing import NamedTuple

_WORD = r"[A-Za-z0-9_][\w.-]*"
_REPO = rf"{_WORD}/{_WORD}"
_ID = re.compile(rf"({_REPO})(?:@(\w[\w./-]*))?", re.ASCII)
# The folder of a commit in the hub's cache.
_SNAPSHOT = re.compile(r"(?:.*/)?models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/|$)")


def is_repository(name: str) -> bool:
  """Return whether a name can be that of a repository on the hub, ORG/NAME."""
  return re.fullmatch(_REPO, name, re.ASCII) is not None


class HubId(NamedTuple):
  """A model on the hub.

  Attributes:
    repo: ORG/NAME.
    revision: branch, tag or commit; None for the main branch.
  """

  repo: str
  revision: str | None

  def __str__(self) -> str:
    return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def parse_id(place: str | os.PathLike) -> HubId | None:
  """Return the id that a place is; None for a path.

  What is there is a path, and so is what lies in a folder that is there: a mistyped path is not asked of the hub.
  """
  text = os.fspath(place)
  found = _ID.fullmatch(text)
  if found is None or os.path.lexists(text) or os.path.lexists(found[1].partition("/")[0]):
    return None
  return HubId(found[1], found[2])


def identity(path: str | os.PathLike) -> str | None:
  """Return ORG/NAME@COMMIT of a path in the hub's cache; None of any other path."""
  found = _SNAPSHOT.match(os.path.abspath(path))
  return f"{found[1]}/{found[2]}@{found[3]}" if found else None
