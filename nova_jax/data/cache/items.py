"""Items of a source: where a clip or still lies, and what is said of it. Small and picklable; workers read them.

Invariant: reading an item depends on the item alone, so that any process may do it.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nova_jax.config import CacheConfig

_MOST_SECONDS = 1e7


class Unusable(ValueError):
  """Why an item can't become a record."""


@dataclasses.dataclass(frozen=True)
class Piece:
  """Part of a file: all of it, or a member of a tar."""

  path: Path
  start: int = 0
  size: int | None = None  # None goes to the end.

  def read(self) -> bytes:
    with self.path.open("rb") as file:
      file.seek(self.start)
      return file.read() if self.size is None else file.read(self.size)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A value of a Parquet file."""

  path: Path
  group: int  # Row group.
  row: int  # In the group.
  column: str

  def read(self) -> bytes:
    value = _column(self.path, self.group, self.column)[self.row].as_py()
    value = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(value, bytes):
      raise Unusable(f"{self.column}: expected bytes, got {type(value).__name__}")
    return value


@functools.lru_cache(maxsize=1)  # Rows follow one another, and only whole groups can be read.
def _column(path: Path, group: int, column: str) -> Sequence[Any]:
  import pyarrow.parquet as pq  # Slow to import, and only this source needs it.

  return pq.ParquetFile(path).read_row_group(group, columns=[column])[column]


@dataclasses.dataclass(frozen=True)
class Example:
  """An example of a TFDS dataset."""

  folder: Path
  split: str
  index: int

  def read(self) -> Mapping[str, Any]:
    from nova_jax.data.cache.tfds_source import examples  # Slow to import, and only this source needs it.

    return examples(self.folder, self.split)[self.index]


Media = Piece | Cell | Example


@dataclasses.dataclass(frozen=True)
class Texts:
  """What is said of a clip."""

  caption: str
  short_caption: str | None = None
  start: float | None = None  # Of a scene, in seconds of its file.
  end: float | None = None


@dataclasses.dataclass(frozen=True)
class Item:
  """A clip or a still, or a scene of a clip.

  Attributes:
    name: of the item in its source; no two have the same.
    media: where it lies; None if the source does not say.
    fields: what a table says of it, or the sidecar files of captions: {".txt": …, ".json": …}.
    problem: why it can't be used, if that shows without reading it.
  """

  name: str
  media: Media | None
  fields: Mapping[str, Any]
  problem: str = ""

  def texts(self, cfg: CacheConfig, example: Mapping[str, Any] | None = None) -> Texts:
    """Read what is said of it.

    Args:
      cfg: names the fields.
      example: of a TFDS dataset, which has the texts itself.

    Raises:
      Unusable: there is no caption, or it can't be read.
    """
    fields = dict(self.fields if example is None else example)
    note, text = fields.pop(".json", None), fields.pop(".txt", None)
    if note is not None:
      fields |= _parse_note(note)
    if text is not None:
      fields[cfg.caption_field] = _decode(text.read())
    caption = _text(fields, cfg.caption_field)
    if caption is None:
      raise Unusable(f"no caption: expected a field {cfg.caption_field!r}, or a .txt or .json file beside it")
    short = _text(fields, cfg.short_caption_field) or None  # Tables have empty cells where there is none.
    return Texts(caption, short, *(_seconds(fields, end) for end in ("start", "end")))


def _parse_note(piece: Piece) -> dict[str, Any]:
  text = _decode(piece.read())
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise Unusable(f"its .json file is not JSON: {error}") from None
  if not isinstance(value, dict):
    raise Unusable(f"its .json file: expected an object, got a {type(value).__name__}")
  return value


def _decode(content: bytes) -> str:
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise Unusable(f"its caption is not UTF-8: byte {error.start}") from None


def _text(fields: Mapping[str, Any], name: str) -> str | None:
  value = fields.get(name)
  if isinstance(value, bytes):
    value = _decode(value)
  if value is None or (isinstance(value, float) and np.isnan(value)):
    return None
  if not isinstance(value, str):
    raise Unusable(f"{name}: expected text, got {type(value).__name__}")
  try:
    value.encode()
  except UnicodeEncodeError:
    raise Unusable(f"{name}: not UTF-8") from None
  return value.strip()


def _seconds(fields: Mapping[str, Any], name: str) -> float | None:
  value = fields.get(name)
  if value is None or value == "":
    return None
  try:
    seconds = float(value)
  except (TypeError, ValueError):
    seconds = -1.0
  if not 0 <= seconds <= _MOST_SECONDS:
    raise Unusable(f"{name}: expected seconds, got {value!r}")
  return seconds
