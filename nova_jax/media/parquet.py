"""Parquet tables, a few rows at a time: a row group may be larger than memory has room for it in every process.

Texts are columns of any type that pandas, polars and Hugging Face write them as; media are bytes, or structs of bytes
and path.
Invariant: a cell that isn't what its column promises is one cell's problem; the others are read.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_fetched, check_regular

_ROWS = 1024  # Of texts that are read together.
_BUFFER = 1 << 16  # Bytes read ahead; without, a column of a row group is read whole.
_SHORT = 4096  # Bytes a row below which binary cells may be texts.


def columns_of(path: Path) -> tuple[str, ...]:
  """Return the names of a table's columns.

  Raises:
    ValueError: it isn't Parquet, or a name is there twice.
  """
  with _open(path) as file:
    names = tuple(file.schema_arrow.names)
  for i, name in enumerate(names):
    if name in names[:i]:
      raise UserError(f"{path}: the column {name!r} is there twice")
  return names


def holds_text(path: Path, column: str) -> bool:
  """Return whether the cells of a column are texts; else they are bytes of media, or something else.

  Binary cells are texts if all of them are short and UTF-8 without control characters, as no media is.

  Raises:
    ValueError: the table can't be read.
  """
  with _open(path) as file:
    kind = file.schema_arrow.field(column).type
    if _is_string(kind):
      return True
    if not _is_binary(kind):
      return False
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    sizes = sum(
        group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns)
        if group.column(i).path_in_schema == column)
    rows = file.metadata.num_rows
  return 0 < rows and sizes < _SHORT * rows and all(
      cells[column] is None or _looks_like_text(cells[column]) for _, _, cells in read_rows(path, [column]))


def _is_string(kind: Any) -> bool:
  """Return whether a type of Arrow is one of texts, each of which may be stored once."""
  import pyarrow as pa

  kind = kind.value_type if pa.types.is_dictionary(kind) else kind
  return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: Any) -> bool:
  import pyarrow as pa

  kind = kind.value_type if pa.types.is_dictionary(kind) else kind
  return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _looks_like_text(content: bytes) -> bool:
  try:
    return not any(character < " " for character in content.decode())
  except UnicodeDecodeError:
    return False


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
  """Yield row group, row in the group, and cells by column.

  A text that isn't UTF-8 stays bytes, and of one that is longer than any caption may be only the beginning is read.

  Raises:
    ValueError: the table can't be read, or has more rows than `limits.ROWS`.
  """
  count = 0
  with _open(path) as file:
    texts = [name for name in columns if _is_string(kind := file.schema_arrow.field(name).type) or _is_binary(kind)]
  # Texts stay as the file has them, each once: a small file may say a long one a million times.
  with _open(path, read_dictionary=texts) as file:
    for group in range(file.num_row_groups):
      _check_count(path, count + file.metadata.row_group(group).num_rows)
      if not columns:
        yield from ((group, row, {}) for row in range(file.metadata.row_group(group).num_rows))
        continue
      row = 0
      for batch in file.iter_batches(_ROWS, row_groups=[group], columns=list(columns), use_threads=False):
        cells = {name: _values(batch.column(i)) for i, name in enumerate(batch.schema.names)}
        for i in range(batch.num_rows):
          yield group, row, {name: cells[name][i] for name in cells}
          row += 1
      count += row
      _check_count(path, count)


def _check_count(path: Path, rows: int) -> None:
  if rows > limits.ROWS:
    raise UserError(f"{path} has {rows:,} rows or more; expected at most {limits.ROWS:,} (ROWS): split the table")


def _values(column: Any) -> list[Any]:
  import pyarrow as pa

  if pa.types.is_dictionary(column.type):
    values = [_value(value) for value in column.dictionary]
    return [None if i is None else values[i] for i in column.indices.to_pylist()]
  return [_value(cell) for cell in column]


def _value(cell: Any) -> Any:
  """Return a cell, or the beginning of one that is too long."""
  if not hasattr(cell, "as_buffer") or not cell.is_valid:
    return cell.as_py()
  content = bytes(memoryview(cell.as_buffer())[: limits.CAPTION_BYTES + 1])
  if not _is_string(cell.type):
    return content
  try:
    return content.decode("utf-8", "strict" if len(content) <= limits.CAPTION_BYTES else "replace")
  except UnicodeDecodeError:
    return content


def read_cell(path: Path, group: int, row: int, column: str) -> Any:
  """Return a cell. Those of a row group are best read in their order: what precedes them is skipped.

  Raises:
    ValueError: the table can't be read.
  """
  global _reader
  if _reader is None or not _reader.is_before(path, group, row, column):
    _reader = _Reader(path, group, column)
  return _reader.read(row)


class _Reader:
  """Reads a column of a row group row after row.

  Args:
    path: of the table.
    group: the row group.
    column: its name.
  """

  def __init__(self, path: Path, group: int, column: str):
    self._place, self._row = (path, group, column), 0
    self._rows = self._read()

  def is_before(self, path: Path, group: int, row: int, column: str) -> bool:
    """Return whether a cell is still to be read."""
    return self._place == (path, group, column) and self._row <= row

  def read(self, row: int) -> Any:
    """Return the cell of a row, and skip those before it."""
    for cell in self._rows:
      self._row += 1
      if self._row > row:
        return cell.as_py()
    raise UserError(f"{self._place[0]} has no row {row} in row group {self._place[1]}")

  def _read(self) -> Iterator[Any]:
    path, group, column = self._place
    with _open(path) as file:
      for batch in file.iter_batches(1, row_groups=[group], columns=[column], use_threads=False):
        yield from batch.column(0)


_reader: _Reader | None = None  # The last one: rows are read in their order, mostly.


@contextlib.contextmanager
def _open(path: Path, **options: Any) -> Iterator[Any]:
  """Open a table; what the library raises over it, here or while it is read, names the file."""
  import pyarrow as pa  # Slow to import, and only these tables need it.
  import pyarrow.parquet as pq

  check_regular(path)  # The library would wait for what a pipe may hold.
  try:
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER, **options) as file:
      yield file
  except (pa.ArrowException, OSError) as error:
    if isinstance(error, OSError) and error.errno is not None:
      raise
    check_fetched(path)
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"{path} is not Parquet that can be read: {reason}") from None
