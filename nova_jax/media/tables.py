"""Reads CSV, JSON lines and JSON arrays strictly, as rows; an unreadable row has the reason.

  .csv     commas and double quotes as in RFC 4180. A column without a name may be empty or hold the row numbers that
           pandas writes, and is skipped. Lines without any cell are skipped.
  .jsonl   one object per line; blank lines are skipped, but counted
  .json    an array of objects, which may also be in a file named .jsonl
null and NaN stand for missing values, and become None.
Invariant: a row has exactly the values of its line, or a problem. A table is refused if its rows can't be separated.
"""

import contextlib
import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nova_jax.storage import as_path
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import read_bytes
from nova_jax.utils.text_files import check_encoding, parse_json, without_marks

ENDINGS = (".csv", ".jsonl", ".json")


class Row(NamedTuple):
  """A row of a table."""

  number: int  # Number from 1: of the row in CSV and arrays, of the line in JSON lines.
  where: str  # File and line, or file and entry, for errors.
  values: dict[str, Any]  # Cells by column; None for missing ones. With a problem, their possible values.
  problem: str = ""  # Reason why the row can't be used; "" if it can.


class Table(NamedTuple):
  """A table with its columns and rows."""

  columns: tuple[str, ...]  # Names in order.
  rows: list[Row]


class OpenTable:
  """A table whose rows are parsed as they are asked for, each time anew; its text alone is held.

  Attributes:
    columns: names in order; of JSON lines, those of the rows that were asked for so far.
  """

  def __init__(self, rows: Callable[[], Iterator[Row]], columns: Iterable[str] = ()):
    self._rows, self.columns = rows, dict.fromkeys(columns)

  def __iter__(self) -> Iterator[Row]:
    for row in self._rows():
      self.columns.update(dict.fromkeys(row.values))
      yield row


def read_table(path: str | Path) -> Table:
  """Read a table. Its rows include those that can't be used, with the reason.

  Raises:
    UserError: the file can't be read, or has a problem that affects more than one row.
  """
  table = open_table(path)
  rows = list(table)
  return Table(tuple(table.columns), rows)


def open_table(path: str | Path) -> OpenTable:
  """Open a table that may have many rows; arguments and errors as of `read_table`."""
  path = as_path(path)
  content = read_bytes(path, limits.TEXT_FILE_BYTES)
  check_encoding(content, str(path))
  text = without_marks(content.decode("utf-8", "surrogateescape"))
  if (count := max(text.count("\n"), text.count("\r"))) > limits.ROWS:
    raise UserError(f"{path} has {count:,} lines; expected at most {limits.ROWS:,} (ROWS): split the table")
  if path.suffix.lower() == ".csv":
    return _csv(text, path)
  rows = _json_array if path.suffix.lower() == ".json" or _is_array(text) else _json_lines
  return OpenTable(lambda: rows(text, path))


def check_rows(table: Table) -> Table:
  """Return the table if all of its rows can be used.

  Raises:
    UserError: a row can't be used; the error names file and line.
  """
  for row in table.rows:
    if row.problem:
      raise UserError(f"{row.where}: {row.problem}")
  return table


def inner_rows(row: Row, columns: Sequence[str]) -> Iterator[dict[str, str]]:
  """Yield lines within a row's cells that would be valid rows, which suggest an unintended open quote."""
  for cell in row.values.values():
    for line in re.split("\r\n|\r|\n", cell)[1:] if isinstance(cell, str) else ():
      with contextlib.suppress(csv.Error):  # Such a line is no row.
        cells = next(csv.reader([line]), [])
        if len(cells) == len(columns):
          yield dict(zip(columns, cells, strict=True))


def is_missing(value: Any) -> bool:
  """Return whether a cell is missing, as null or NaN."""
  return value is None or isinstance(value, float) and math.isnan(value)


def _csv(text: str, path: Path) -> OpenTable:
  first, names, fillers = 0, None, {}
  for number, (line, cells) in enumerate(_csv_lines(text, path), -1):
    if names is None:
      first, names = line, cells
      # Columns without a name that may be empty, or be the first one and have the numbers of the rows.
      fillers = {i: [True, i == 0] for i, name in enumerate(names) if not name}
    else:
      for i, possible in fillers.items():
        if i < len(cells):
          possible[0] &= not cells[i]
          possible[1] &= cells[i] == str(number)
  if names is None:
    raise UserError(f"{path} is empty; expected a line with the names of the columns")
  _check_names(names, f"{path}:{first}")
  kept = [i for i in range(len(names)) if not any(fillers.get(i, ()))]
  if unnamed := [i + 1 for i in kept if not names[i]]:
    raise UserError(f"{path}:{first}: column {unnamed[0]} has no name")
  return OpenTable(lambda: _csv_rows(text, path, names, kept), (names[i] for i in kept))


def _csv_rows(text: str, path: Path, names: Sequence[str], kept: Sequence[int]) -> Iterator[Row]:
  for number, (line, cells) in enumerate(itertools.islice(_csv_lines(text, path), 1, None), 1):
    problem = _text_problem(cells)
    if any(cell.startswith(" ") and cell.lstrip().startswith('"') for cell in cells):
      problem = "a quote after a space is part of its cell; remove the space"
    if len(cells) != len(names):
      hint = "; a cell with a comma needs quotes around it" if len(cells) > len(names) else ""
      problem = f"expected {len(names)} cells, as in the header, got {len(cells)}{hint}"
    yield Row(number, f"{path}:{line}", {names[i]: cells[i] for i in kept if i < len(cells)}, problem)


def _csv_lines(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
  """Yield the first line and the cells of each row."""
  begun = 1
  with _any_length():
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
      for cells in reader:
        if cells:
          yield begun, cells
        begun = reader.line_num + 1
    except csv.Error as error:
      reason = {"unexpected end of data": "a quote is opened and not closed",
                "',' expected after '\"'": "a quote ends in the middle of a cell; quotes within quotes are doubled"}
      raise UserError(f"{path}:{begun}: {reason.get(str(error), error)}; the rows from here on are not safe") from None


@contextlib.contextmanager
def _any_length() -> Generator[None]:
  """Lift the csv module's limit on the length of cells, since it would refuse the whole table."""
  before = csv.field_size_limit(limits.TEXT_FILE_BYTES)
  try:
    yield
  finally:
    csv.field_size_limit(before)


def _check_names(names: Sequence[str], where: str) -> None:
  """Refuse a header with ambiguous names of columns."""
  if len(names) == 1 and (found := re.search(r"[;\t|]", names[0])):
    raise UserError(f"{where}: the header is parted by {found[0]!r}; expected commas")
  for i, name in enumerate(names):
    if name and name in names[:i]:
      raise UserError(f"{where}: the column {name!r} is there twice")
    if name != name.strip():
      raise UserError(f"{where}: the name {name!r} has spaces around it; remove them")
    if problem := _text_problem([name]):
      raise UserError(f"{where}: {problem}")
  if not any(names):
    raise UserError(f"{where}: expected the names of the columns, got none")


def _text_problem(texts: Sequence[str], what: str = "cell") -> str:
  for text in texts:
    if len(text) > limits.CELL_BYTES:
      return f"a {what} of {len(text):,} characters; expected at most {limits.CELL_BYTES:,} bytes (CELL_BYTES)"
    if "\0" in text:
      return f"a {what} has a zero byte, which no text has"
    try:
      text.encode()
    except UnicodeEncodeError as error:
      return f"a {what} is not UTF-8: it has a byte 0x{ord(text[error.start]) - 0xdc00:02x}; save the file as UTF-8"
  return ""


def _json_lines(text: str, path: Path) -> Iterator[Row]:
  for number, line in enumerate(_split(text), 1):
    if line.strip():
      where = f"{path}:{number}"
      try:
        if problem := _text_problem([line], "line"):
          raise UserError(problem)
        yield _object(parse_json(line, "the line"), number, where)
      except ValueError as error:
        yield Row(number, where, {}, str(error))


def _split(text: str) -> Iterator[str]:
  """Yield the lines of a text."""
  start = 0
  for end in re.finditer("\r\n|\r|\n", text):
    yield text[start : end.start()]
    start = end.end()
  yield text[start:]


def _json_array(text: str, path: Path) -> Iterator[Row]:
  try:
    text.encode()
  except UnicodeEncodeError as error:
    line = text.count("\n", 0, error.start) + 1
    raise UserError(f"{path}:{line} is not UTF-8; save the file as UTF-8") from None
  if len(text) > limits.JSON_FILE_BYTES:
    raise UserError(
        f"{path}: expected at most {limits.JSON_FILE_BYTES:,} bytes of one JSON array (JSON_FILE_BYTES), got "
        f"{len(text):,}; write an object a line, as .jsonl")
  entries = parse_json(text, str(path))
  if not isinstance(entries, list):
    raise UserError(f"{path}: expected a JSON array of objects, got {type(entries).__name__}")
  for number, entry in enumerate(entries, 1):
    yield _object(entry, number, f"{path}, entry {number}")


def _is_array(text: str) -> bool:
  """Return whether a file for JSON lines holds an array of objects instead."""
  if not text.lstrip().startswith("[") or len(text) > limits.JSON_FILE_BYTES:
    return False
  try:
    value = parse_json(text, "")
  except ValueError:
    return False
  return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _object(value: Any, number: int, where: str) -> Row:
  if not isinstance(value, dict):
    return Row(number, where, {}, f"expected a JSON object, got {type(value).__name__}")
  return Row(number, where, {name: None if is_missing(cell) else cell for name, cell in value.items()})
