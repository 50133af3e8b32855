"""Items of a source: where a clip or still lies, and what is said of it. Small and picklable; workers read them.

Invariant: reading an item depends on the item alone, so that any process may do it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nova_jax.config import CacheConfig
from nova_jax.data.cache.items.cells import Unusable, decode_text, is_number, read_seconds, read_text
from nova_jax.data.cache.items.packed import read_packed
from nova_jax.media.parquet import read_cell
from nova_jax.storage import RemotePath, join
from nova_jax.utils import limits
from nova_jax.utils.files import check_regular
from nova_jax.utils.text_files import parse_json


@dataclasses.dataclass(frozen=True)
class Piece:
  """Part of a file: all of it, or a member of a tar."""

  path: Path
  start: int = 0
  size: int | None = None  # None goes to the end.
  packing: str = ""  # Of a tar that is compressed, a key of `packed.OPENERS`; start and size are as if it were not.

  def read(self, limit: int) -> bytes:
    """Read at most `limit` bytes.

    Raises:
      Unusable: there are more, or the file ends before.
    """
    if self.size is not None and self.size > limit:
      raise Unusable(f"it has {self.size:,} bytes; expected at most {limit:,}")
    if self.packing:
      assert self.size is not None  # Of a member of a tar.
      try:
        content = read_packed(self.path, self.packing, self.start, self.size)
      except ValueError as error:
        raise Unusable(str(error)) from None
    elif isinstance(self.path, RemotePath):
      content = self.path.read_start(limit + 1) if self.size is None else self.path.read_part(self.start, self.size)
    else:
      try:
        path = check_regular(self.path)
      except ValueError as error:
        raise Unusable(str(error)) from None
      with path.open("rb") as file:
        file.seek(self.start)
        content = file.read(limit + 1 if self.size is None else self.size)
    if len(content) > limit:
      raise Unusable(f"it has more than {limit:,} bytes")
    if self.size is not None and len(content) < self.size:
      raise Unusable(f"the file ends {self.size - len(content):,} bytes before it should")
    return content


@dataclasses.dataclass(frozen=True)
class Cell:
  """A value of a Parquet file: bytes, or a struct of them and a path, as Hugging Face writes it."""

  path: Path
  group: int  # Row group.
  row: int  # In the group.
  column: str

  def read(self) -> bytes:
    try:
      value = read_cell(self.path, self.group, self.row, self.column)
    except ValueError as error:
      raise Unusable(str(error)) from None
    place = value.get("path") if isinstance(value, dict) else None
    value = value.get("bytes") if isinstance(value, dict) else value
    if value is None and isinstance(place, str) and place and "\0" not in place:
      value = Piece(join(self.path.parent, place)).read(limits.ROW_BYTES)
    if not isinstance(value, bytes):
      raise Unusable(f"{self.column}: expected bytes, got {type(value).__name__}")
    if len(value) > limits.ROW_BYTES:
      raise Unusable(f"{self.column}: {len(value):,} bytes; expected at most {limits.ROW_BYTES:,} (ROW_BYTES)")
    return value


@dataclasses.dataclass(frozen=True)
class Held:
  """What was read already."""

  content: bytes

  def read(self) -> bytes:
    return self.content


@dataclasses.dataclass(frozen=True)
class Example:
  """An example of a TFDS dataset."""

  folder: Path
  split: str
  index: int

  def read(self) -> Mapping[str, Any]:
    from nova_jax.data.cache.sources.tfds_source import examples  # Slow to import, and only this source needs it.

    return examples(self.folder, self.split)[self.index]


Media = Piece | Cell | Held | Example


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
      fields |= _read_note(note, cfg, alone=text is None and cfg.caption_field not in fields)
    if text is not None:
      fields[cfg.caption_field] = decode_text(_content(text, limits.CAPTION_BYTES))
    caption = read_text(fields, cfg.caption_field)
    if caption is None:
      raise Unusable(f"no caption: expected a field {cfg.caption_field!r}, or a .txt or .json file beside it")
    short = read_text(fields, cfg.short_caption_field) or None  # Tables have empty cells where there is none.
    start, end = read_seconds(fields, "start"), read_seconds(fields, "end")
    if end is not None and (start or 0.0) >= end:
      raise Unusable(f"expected an end after the start, got start {start or 0:g} and end {end:g}")
    return Texts(caption, short, start, end)


def held(item: Item) -> Item:
  """Return an item with what a reader can only pass in order, read: cells of Parquet, members of compressed tars.

  One process reads for all others, as each would have to hold all of a row group, or unpack all of a tar.
  """
  if isinstance(item.media, Cell):
    return dataclasses.replace(item, media=_held(item.media))
  pieces = [value for value in (item.media, *item.fields.values()) if isinstance(value, Piece) and value.packing]
  read = {value: _held(value) for value in sorted(pieces, key=lambda piece: piece.start)}
  if not read:
    return item
  fields = {name: read.get(value, value) if isinstance(value, Piece) else value for name, value in item.fields.items()}
  return dataclasses.replace(item, media=read.get(item.media, item.media), fields=fields)


def _held(value: Any) -> Any:
  try:
    return Held(value.read() if isinstance(value, Cell) else value.read(limits.ROW_BYTES))
  except Exception:  # Whoever takes the item will meet it again, and say what it is.
    return value


def _content(value: Piece | Held, limit: int) -> bytes:
  try:
    content = value.read() if isinstance(value, Held) else value.read(limit)
  except Unusable as error:
    raise Unusable(f"its caption: {error}") from None
  if len(content) > limit:
    raise Unusable(f"its caption: it has more than {limit:,} bytes")
  return content


def _read_note(note: Piece | Held, cfg: CacheConfig, alone: bool) -> dict[str, Any]:
  """Read a .json file beside a clip.

  Args:
    note: the file.
    cfg: names the fields.
    alone: whether nothing else says the caption. Else the file may be about something else, such as boxes: what isn't
      an object is passed over, and so are times that aren't seconds if there is no caption with them.
  """
  try:
    content = _content(note, limits.CELL_BYTES)
  except Unusable:
    if alone:
      raise
    return {}
  try:
    value = parse_json(decode_text(content), "its .json file")
  except Unusable:
    raise
  except ValueError as error:
    raise Unusable(str(error)) from None
  if not isinstance(value, dict):
    if alone:
      raise Unusable(f"its .json file: expected an object, got a {type(value).__name__}")
    return {}
  if not alone and cfg.caption_field not in value:
    value = {name: cell for name, cell in value.items() if name not in ("start", "end") or is_number(cell)}
  return value
