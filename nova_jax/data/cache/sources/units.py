"""Parts of a source that are listed on their own, by any host: a tar, or a Parquet table.

A walk through a source meets them, and reads nothing of them but their names.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from nova_jax.config import CacheConfig
from nova_jax.data.cache.items.item import Item
from nova_jax.data.cache.sources import found as kinds
from nova_jax.data.cache.sources.found import Found
from nova_jax.data.cache.sources.tables import table_items
from nova_jax.data.cache.sources.tars import tar_items
from nova_jax.media import parquet
from nova_jax.utils.errors import UserError

TAR, TABLE = "tar", "table"
_VIDEOS = ".avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv .3gp".split()
_PICTURES = ".bmp .jpeg .jpg .png .tif .tiff .webp".split()
_SOUNDS = ".aac .flac .m4a .mp3 .ogg .wav".split()  # So that one in place of a video is named, not passed over.
MEDIA = frozenset(_VIDEOS + _PICTURES + _SOUNDS)  # Items whatever they hold, so that a damaged one is named.


@dataclasses.dataclass(frozen=True)
class Unit:
  """A tar or a Parquet table.

  Attributes:
    kind: which of both.
    path: of the file.
    name: of it in the source; empty if it is the source itself, and a table.
    rank: place of what it has beside items among all that is found in the source (`found.Ranked`).
    beside_tar: whether a tar has the same name but for the ending: tools that make tars write what they know of them
      beside them.
  """

  kind: str
  path: Path
  name: str
  rank: int = 0
  beside_tar: bool = False

  def items(self, cfg: CacheConfig, found: Found) -> Iterator[Item]:
    """Yield the items in their order.

    Args:
      cfg: names the columns of tables.
      found: is told what is not used.

    Raises:
      UserError: the table can't be read. If it is one of several files, `problem` says what stands in its place.
    """
    if self.kind == TAR:
      yield from map(Unlike(), tar_items(self.path, self.name, found, MEDIA))
    elif not self.name:
      yield from map(plain, table_items(self.path, cfg))
    elif not self.beside_tar and cfg.path_field in parquet.column_names(self.path):
      yield from map(plain, table_items(self.path, cfg, f"{self.name}/"))
    else:
      found.add(kinds.TABLES, self.name)

  def problem(self, error: UserError) -> Item:
    """Return the item that stands in place of all of a table that can't be read; raises if the source is that table."""
    if not self.name:
      raise error
    return Item(self.name, None, {}, str(error).replace(f"{self.path.parent}/", ""))


class Unlike:
  """Says of a second item of one name that it is one, among items that are passed to it in their order."""

  def __init__(self):
    self._seen: dict[str, int] = {}

  def __call__(self, item: Item) -> Item:
    item = plain(item)
    self._seen[item.name] = count = self._seen.get(item.name, 0) + 1
    if count == 1:
      return item
    return Item(f"{item.name}#{count}", None, {}, f"the source has {item.name} before")


def plain(item: Item) -> Item:
  """Return an item with a name that is text, whatever bytes a file's name has."""
  if item.name.isascii():
    return item
  name = item.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
  return dataclasses.replace(item, name=name)


def listed(pieces: Iterable[Item | Unit], cfg: CacheConfig, ranked: list) -> Iterator[Item]:
  """Yield all items of a walk, those of its units among them, and add what the units find to `ranked`."""
  for piece in pieces:
    if isinstance(piece, Item):
      yield piece
      continue
    found = Found()
    try:
      yield from piece.items(cfg, found)
    except UserError as error:
      yield piece.problem(error)
    ranked.append((piece.rank, found.unused()))
