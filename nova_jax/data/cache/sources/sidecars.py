"""Files of captions beside clips: which belongs to which, even where names differ in case or in the form of accents.

NAME.mp4.txt goes before NAME.txt, for NAME.mp4 and NAME.png to have captions of their own, and a name that is the same
goes before one that is alike. Invariant: a file that has a clip of just its name is no other clip's caption.
"""

import collections
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePath

TEXTS = (".txt", ".json")


def pair(media: Iterable[str], texts: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
  """Return the caption files of each clip, by their endings.

  Args:
    media: names of clips and pictures in a folder.
    texts: names of files there that may be captions.
  """
  media, known = list(media), set(texts)
  alike: dict[str, list[str]] = collections.defaultdict(list)
  for name in sorted(known):
    alike[_fold(name)].append(name)
  exact = {
      (name, end): next((own for own in _names(name, end) if own in known), None) for name in media for end in TEXTS}
  taken = {own for own in exact.values() if own is not None}
  paired: dict[str, dict[str, str]] = {name: {} for name in media}
  for (name, end), own in exact.items():
    if own is None:
      free = ([other for other in alike.get(_fold(wanted), ()) if other not in taken] for wanted in _names(name, end))
      own = next((others[0] for others in free if len(others) == 1), None)
    if own is not None:
      paired[name][end] = own
  return paired


def _names(name: str, end: str) -> tuple[str, str]:
  return name + end, PurePath(name).stem + end


def _fold(name: str) -> str:
  return unicodedata.normalize("NFC", name).casefold()
