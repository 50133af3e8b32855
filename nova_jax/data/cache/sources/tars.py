"""WebDataset tars as sources: members KEY.mp4, KEY.txt and KEY.json make an item; KEY is what is before the first dot.

Keys that differ in case or in how accents are written are one for a clip that has no caption of just its own key.
"""

import functools
import unicodedata
from pathlib import Path, PurePosixPath

from nova_jax.data.cache.items.item import Item, Piece
from nova_jax.data.cache.items.packed import Member, packing_of, read_members
from nova_jax.data.cache.sources import found as kinds
from nova_jax.data.cache.sources.found import Found
from nova_jax.data.cache.sources.sidecars import TEXTS
from nova_jax.utils.files import check_fetched

_ENDINGS = tuple(".tar .tgz .tbz2 .txz .tar.gz .tar.bz2 .tar.xz .tar.zst".split())


def is_tar(path: Path) -> bool:
  """Return whether a file's name is that of a tar."""
  return path.name.lower().endswith(_ENDINGS)


def tar_items(path: Path, where: str, found: Found, media: frozenset[str]) -> list[Item]:
  """Group the members of a tar, in their order.

  Args:
    path: the tar.
    where: what it is called in the source.
    found: is told what is not used.
    media: endings of members that are items whatever they hold.
  """
  try:
    packing = packing_of(path)
    members, problem = read_members(path, packing, media.union(TEXTS))
    if problem and not members:
      check_fetched(path)
  except ValueError as error:
    return [Item(where, None, {}, str(error).removeprefix(str(path)).lstrip(": "))]
  groups: dict[str, list[Member]] = {}
  for member in members:
    name = PurePosixPath(member.name)
    if any(part.startswith(".") and part != ".." for part in name.parts) or "__MACOSX" in name.parts:
      twin = name.name.startswith("._") or "__MACOSX" in name.parts
      found.add(kinds.TWINS if twin else kinds.HIDDEN, f"{where}/{member.name}")
    else:
      groups.setdefault((name.parent / name.name.partition(".")[0]).as_posix(), []).append(member)
  texts = {key: own for key, group in groups.items() if (own := _texts(group))}
  alike: dict[str, list[str]] = {}
  clips = {
      key: [member for member in group if member.is_media or _end(member) in media] for key, group in groups.items()}
  for key in texts:
    if not clips[key]:
      alike.setdefault(_fold(key), []).append(key)
  items, used = [], set()
  for key in groups:
    own = key if key in texts else next(iter(alike.get(_fold(key), ())), "")
    for member in clips[key]:
      used.add(own)
      items.append(_item(path, packing, f"{where}/{key}{_end(member)}", member, texts.get(own, {})))
    for member in groups[key]:
      if _end(member) not in TEXTS and member not in clips[key]:
        found.add(kinds.OTHER, f"{where}/{member.name}")
  for key in texts:
    if key not in used:
      for member in texts[key].values():
        found.add(kinds.ORPHANS, f"{where}/{member.name}")
  return items + ([Item(where, None, {}, problem)] if problem else [])


def _item(path: Path, packing: str, name: str, member: Member, texts: dict[str, Member]) -> Item:
  problem = member.problem or next((f"its caption: {text.problem}" for text in texts.values() if text.problem), "")
  if problem:
    return Item(name, None, {}, problem)
  pieces = {end: Piece(path, text.start, text.size, packing) for end, text in texts.items()}
  return Item(name, Piece(path, member.start, member.size, packing), pieces)


def _texts(group: list[Member]) -> dict[str, Member]:
  texts: dict[str, Member] = {}
  for member in group:
    if _end(member) in TEXTS:
      texts.setdefault(_end(member), member)
  return texts


def _end(member: Member) -> str:
  return _suffix(member.name)


@functools.lru_cache(maxsize=1 << 14)
def _suffix(name: str) -> str:
  return PurePosixPath(name).suffix.lower()


def _fold(key: str) -> str:
  return unicodedata.normalize("NFC", key).casefold()
