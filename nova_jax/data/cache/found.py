"""What a source has beside its items: files that are found and not used, counted by kind and with a few names."""

from nova_jax.data.cache.format import Unused

_SHOWN = 3  # Names of a kind.

# Kinds, in words that follow a number.
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
    self._counts[kind] = self._counts.get(kind, 0) + 1
    names = self._names.setdefault(kind, [])
    if len(names) < _SHOWN:
      names.append(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))

  def unused(self) -> tuple[Unused, ...]:
    """Return the kinds, in the order of their names."""
    return tuple(Unused(kind, count, tuple(self._names[kind])) for kind, count in sorted(self._counts.items()))
