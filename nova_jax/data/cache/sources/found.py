"""What a source has beside its items: files that are found and not used, counted by kind and with a few names."""

from collections.abc import Iterable

from nova_jax.data.cache.format import Unused

_SHOWN = 3  # Names of a kind.

# Kinds, in the plural.
OTHER = "files that are neither media nor captions"
ORPHANS = "captions without a clip or picture"
HIDDEN = "hidden files and folders"
TWINS = "files that macOS adds (._NAME)"
SPECIAL = "devices, pipes and sockets"
BACK = "links to folders that are in the source already"
CLOSED = "files that may not be read"
BROKEN = "links that lead nowhere"
TABLES = "tables without the path of a clip or picture"
ARCHIVES = "archives that are not tars (unpack them)"


class Found:
  """Counts what is found and not used."""

  def __init__(self):
    self._counts: dict[str, int] = {}
    self._names: dict[str, list[str]] = {}

  def add(self, kind: str, name: str) -> None:
    """Count a file."""
    self.merge([Unused(kind, 1, (name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),))])

  def merge(self, later: Iterable[Unused]) -> None:
    """Count what was found elsewhere in the source, later in its order."""
    for each in later:
      self._counts[each.kind] = self._counts.get(each.kind, 0) + each.count
      names = self._names.setdefault(each.kind, [])
      names.extend(each.examples[: _SHOWN - len(names)])

  def unused(self) -> tuple[Unused, ...]:
    """Return the kinds, in the order of their names."""
    return tuple(Unused(kind, count, tuple(self._names[kind])) for kind, count in sorted(self._counts.items()))


class Ranked(Found):
  """Counts what a walk through a source finds, between units that are listed later, by others.

  Attributes:
    first: counts what comes before all else in the order of the source.
  """

  def __init__(self):
    super().__init__()
    self.first = Found()
    self._rank, self._later = 0, {}

  def next_rank(self) -> int:
    """Return the place, among all that is found, of what a unit will find."""
    self._rank += 1
    return self._rank - 1

  def add(self, kind: str, name: str) -> None:
    self._later.setdefault(self._rank, Found()).add(kind, name)

  def ranked(self) -> list[tuple[int, tuple[Unused, ...]]]:
    """Return what the walk has found, before the unit of each rank."""
    return [(-1, self.first.unused()), *((rank, found.unused()) for rank, found in sorted(self._later.items()))]


def merged(parts: Iterable[tuple[int, tuple[Unused, ...]]]) -> tuple[Unused, ...]:
  """Return all that was found, by a walk and by units: of one rank the walk's comes first."""
  found = Found()
  for _, unused in sorted(parts, key=lambda part: part[0]):
    found.merge(unused)
  return found.unused()
