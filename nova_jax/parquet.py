"""Parquet tables, a few rows at a time: a row group may be larger than memory has room for it in every process.

Texts are columns of any type that pandas, polars and Hugging Face write them as; media are bytes, or structs of bytes
and path.
Invariant: a cell that isn't what its column promises is one cell's problem; the others are read.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nova_jax.files import check_fetched

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
      raise ValueError(f"{path}: the column {name!r} is there twice")
  return names


def holds_text(path: Path, column: str) -> bool:
  """Return whether the cells of a column are texts; else they are bytes of media, or something else.

  Binary cells are texts if all of them are short and UTF-8 without control characters, as no media is.

  Raises:
    ValueError: the table can't be read.
  """
  import pyarrow as pa

  with _open(path) as file:
    kind = file.schema_arrow.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
      return True
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
      return False
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    sizes = sum(
        group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns)
        if group.column(i).path_in_schema == column)
    rows = file.metadata.num_rows
  return 0 < rows and sizes < _SHORT * rows and all(
      cells[column] is None or _is_text(cells[column]) for _, _, cells in read_rows(path, [column]))


def _is_text(content: bytes) -> bool:
  try:
    return not any(character < " " for character in content.decode())
  except UnicodeDecodeError:
    return False


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
  """Yield row group, row in the group, and cells by column; a text that isn't UTF-8 stays bytes.

  Raises:
    ValueError: the table can't be read.
  """
  with _open(path) as file:
    for group in range(file.num_row_groups):
      if not columns:
        yield from ((group, row, {}) for row in range(file.metadata.row_group(group).num_rows))
        continue
      row = 0
      for batch in file.iter_batches(_ROWS, row_groups=[group], columns=list(columns), use_threads=False):
        cells = {name: _values(batch.column(i)) for i, name in enumerate(batch.schema.names)}
        for i in range(batch.num_rows):
          yield group, row, {name: cells[name][i] for name in cells}
          row += 1


def _values(column: Any) -> list[Any]:
  try:
    return column.to_pylist()
  except UnicodeDecodeError:
    import pyarrow as pa

    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return [cell.as_buffer() and cell.as_buffer().to_pybytes() for cell in column]


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
    raise ValueError(f"{self._place[0]} has no row {row} in row group {self._place[1]}")

  def _read(self) -> Iterator[Any]:
    path, group, column = self._place
    with _open(path) as file:
      for batch in file.iter_batches(1, row_groups=[group], columns=[column], use_threads=False):
        yield from batch.column(0)


_reader: _Reader | None = None  # The last one: rows are read in their order, mostly.


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
  """Open a table; what the library raises over it, here or while it is read, names the file."""
  import pyarrow as pa  # Slow to import, and only these tables need it.
  import pyarrow.parquet as pq

  try:
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
      yield file
  except (pa.ArrowException, OSError) as error:
    if isinstance(error, OSError) and error.errno is not None:
      raise
    check_fetched(path)
    reason = " ".join(str(error).split())[:200]
    raise ValueError(f"{path} is not Parquet that can be read: {reason}") from None
