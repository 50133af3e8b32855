"""Tables as sources: rows that name a clip or picture, or have its bytes, with what is said of it.

A path is relative to the table, and may lead anywhere: what is read there becomes an item only if it is a video or a
picture. Invariant: each row is an item.
"""

import dataclasses
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nova_jax.config import CacheConfig
from nova_jax.data.cache.items.item import Cell, Item, Piece
from nova_jax.media import parquet
from nova_jax.media.tables import ENDINGS as TEXT_TABLES
from nova_jax.media.tables import Row, check_rows, inner_rows, open_table, read_table
from nova_jax.storage import as_path, is_remote, join, why_not
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

ENDINGS = (*TEXT_TABLES, ".parquet")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_FEW = 100  # Objects whose sizes are asked for one by one.
FILE_NAME, TEXT = "file_name", "text"  # Hugging Face's columns.


def table_items(path: Path, cfg: CacheConfig, prefix: str = "") -> Iterator[Item]:
  """Yield the rows of a table.

  Args:
    path: the table.
    cfg: names its columns.
    prefix: of the items' names.

  Raises:
    UserError: the table can't be read, or lacks a column, which of JSON lines shows at the end.
  """
  fields = (cfg.caption_field, cfg.short_caption_field, "start", "end")
  rows = _parquet_rows(path, cfg, fields) if path.suffix.lower() == ".parquet" else _text_rows(path, cfg)
  items = (_item(path, f"{prefix}row {number}", problem, row, cfg, fields) for number, problem, row in rows)
  yield from _listed(items, path.parent) if is_remote(path) else items


def _parquet_rows(
    path: Path, cfg: CacheConfig, fields: Sequence[str]
) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
  columns = parquet.column_names(path)
  _check_columns(path, columns, cfg)
  holds_text = parquet.holds_text(path, cfg.path_field)
  wanted = [name for name in (*fields, *([cfg.path_field] if holds_text else [])) if name in columns]
  for number, (group, row, cells) in enumerate(parquet.read_rows(path, wanted), 1):
    yield number, "", cells if holds_text else cells | {cfg.path_field: Cell(path, group, row, cfg.path_field)}


def _text_rows(path: Path, cfg: CacheConfig) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
  table = open_table(path)
  known = tuple(table.columns)  # Of CSV; of others the rows tell.
  if known:
    _check_columns(path, known, cfg)
  for row in table:
    yield row.number, _reason(row.where, row.problem or _swallowed(row, known, path, cfg), path), row.values
  if not known:
    if not table.columns:
      check_rows(read_table(path))  # No row can be used: the first one says why.
    if table.columns:
      _check_columns(path, table.columns, cfg)


def _listed(items: Iterator[Item], folder: Path) -> Iterator[Item]:
  """Yield the items with paths of one listing of a bucket's folder, instead of asking for the size of each object."""
  first = list(itertools.islice(items, _FEW + 1))
  found = {str(path): path for path in folder.rglob("*")} if len(first) > _FEW else {}
  for item in itertools.chain(first, items):
    yield dataclasses.replace(item, media=Piece(found.get(str(item.media.path), item.media.path))) if isinstance(
        item.media, Piece) else item


def read_metadata(path: Path, folder: Path, cfg: CacheConfig) -> list[tuple[str, Item]] | None:
  """Read a table of captions that lies beside the files that it names.

  Args:
    path: the table.
    folder: the source.
    cfg: names the columns of captions; Hugging Face's `text` is one too.

  Returns:
    For each row the name of its file in the source, and what is said of it; None if the table is about something else.

  Raises:
    UserError: it can't be read.
  """
  is_parquet = path.suffix.lower() == ".parquet"
  table = None if is_parquet else read_table(path)
  columns = parquet.column_names(path) if table is None else table.columns
  if FILE_NAME not in columns:
    return None
  caption = TEXT if cfg.caption_field not in columns and TEXT in columns else cfg.caption_field
  if table is None:
    wanted = [name for name in (FILE_NAME, caption, cfg.short_caption_field, "start", "end") if name in columns]
    rows = [(i, "", cells) for i, (_, _, cells) in enumerate(parquet.read_rows(path, wanted), 1)]
  else:
    rows = [(row.number, _reason(row.where, row.problem, path), row.values) for row in table.rows]
  where, within = path.relative_to(folder).as_posix(), path.parent.relative_to(folder)
  items = []
  for number, problem, values in rows:
    name = values.get(FILE_NAME)
    if not problem and (not isinstance(name, str) or not name):
      problem = f"{FILE_NAME}: expected the path of a file, got {repr(name)[:80]}"
    if not problem and isinstance(name, str) and not os.path.lexists(path.parent / name):
      name = name.replace("\\", "/")  # As Windows writes it.
    fields = {
        FILE_NAME: name, cfg.caption_field: values.get(caption),
        **{key: values.get(key) for key in (cfg.short_caption_field, "start", "end")}}
    label = f"{where} row {number}" + ("" if problem else f": {name}")
    key = where + str(number) if problem else (within / str(name)).as_posix()
    items.append((key, Item(label, None, fields, problem)))
  return items


def _swallowed(row: Row, columns: Sequence[str], path: Path, cfg: CacheConfig) -> str:
  """Return what is wrong with a row that holds others in quotes: they name files that are there."""
  for inner in inner_rows(row, columns) if path.suffix.lower() == ".csv" else ():
    name = inner[cfg.path_field]
    if name and "\0" not in name and len(name) < 256 and (path.parent / name).is_file():
      return f"a quote is open over the row of {name}; close it, or double quotes within quotes"
  return ""


def _check_columns(path: Path, columns: Iterable[str], cfg: CacheConfig) -> None:
  """Refuse a table that lacks a column, or in which one is probably misspelt."""
  columns = tuple(columns)
  if FILE_NAME in columns and cfg.path_field not in columns:
    raise UserError(
        f"path_field: {path} has {FILE_NAME!r}, as in the tables of captions that lie beside their files; give the "
        f"folder {path.parent} as the source, or --config.path_field={FILE_NAME}")
  for name in ("path_field", "caption_field"):
    if getattr(cfg, name) not in columns:
      raise UserError(f"{name}: {path} has no {getattr(cfg, name)!r}; it has {', '.join(columns) or 'no columns'}")
  for name in (cfg.short_caption_field, "start", "end"):
    alike = [column for column in columns if column.strip().casefold() == name.casefold()]
    if alike and name not in columns:
      raise UserError(f"{path}: the column {alike[0]!r} would not be read{did_you_mean(alike[0], [name])}")


def _reason(where: str, problem: str, path: Path) -> str:
  """Return what is wrong with a row, and where, without the folder, which may be another tomorrow."""
  return problem and f"{where.removeprefix(f'{path.parent}/')}: {problem}"


def _item(
    path: Path, label: str, problem: str, row: Mapping[str, Any], cfg: CacheConfig, names: Iterable[str]
) -> Item:
  """Make an item of a row, or of what is wrong with it."""
  place = row.get(cfg.path_field)
  if problem:  # The name is that which it will have when the row has been mended.
    return Item(f"{label}: {place}" if place and isinstance(place, str) else label, None, {}, problem)
  fields = {name: row.get(name) for name in names}
  if isinstance(place, Cell):
    return Item(label, place, fields)
  if isinstance(place, bytes):  # Text of a binary column.
    place = place.decode("utf-8", "replace")
  if not isinstance(place, str) or not place or "\0" in place:
    return Item(label, None, {}, f"{cfg.path_field}: expected the path of a file, got {repr(place)[:80]}")
  if is_remote(place):
    reason = why_not(place) or ""
    return Item(f"{label}: {place}", None if reason else Piece(as_path(place)), {} if reason else fields, reason)
  file = _existing(path.parent, place)
  if _ADDRESS.match(place) and not os.path.lexists(file):
    return Item(f"{label}: {place}", None, {}, "addresses are not fetched: download the file, and give its path")
  return Item(f"{label}: {place}", Piece(file), fields)


def _existing(folder: Path, place: str) -> Path:
  """Return a path as the file system has it: accents are written in two ways, and Windows has backslashes."""
  path = join(folder, place)
  if is_remote(path) or "\\" not in place and str(path).isascii() or os.path.lexists(path):
    return path  # The file system is not asked for each of a million rows.
  others = (Path(unicodedata.normalize(form, str(folder / way))) for way in _ways(place) for form in ("NFC", "NFD"))
  return next(filter(os.path.lexists, others), path)


def _ways(place: str) -> Sequence[str]:
  return (place, place.replace("\\", "/")) if "\\" in place else (place,)
