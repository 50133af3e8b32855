"""Reads Parquet tables a few rows at a time, since a row group in every process may exceed the memory.

Texts may have any type in which pandas, polars and Hugging Face write them. Media are bytes, or structs of bytes and
path. Invariant: a cell that does not match its column's type affects no other cell.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from nova_jax.storage import local_copy
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_fetched, check_regular

_ROWS = 1024  # Rows of text that are read together.
_BUFFER = 1 << 16  # Bytes read ahead; without it the column of a row group is read as a whole.
_SHORT = 4096  # Bytes per row below which binary cells may be texts.


def column_names(path: Path) -> tuple[str, ...]:
  """Return the names of a table's columns.

  Raises:
    UserError: the file is not Parquet, or two columns have the same name.
  """
  with _open(path) as file:
    names = tuple(file.schema_arrow.names)
  for i, name in enumerate(names):
    if name in names[:i]:
      raise UserError(f"{path}: the column {name!r} is there twice")
  return names


def holds_text(path: Path, column: str) -> bool:
  """Return whether the cells of a column are texts, rather than bytes of media or other values.

  Binary cells are texts if all of them are short UTF-8 without control characters, which no media is.

  Raises:
    UserError: the table can't be read.
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
  """Return whether an Arrow type is one of texts, possibly dictionary-encoded."""
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

  A text that is not UTF-8 is returned as bytes. A text that is longer than any valid caption is truncated.

  Raises:
    UserError: the table can't be read, or has more than `limits.ROWS` rows.
  """
  count = 0
  with _open(path) as file:
    texts = [name for name in columns if _is_string(kind := file.schema_arrow.field(name).type) or _is_binary(kind)]
  # Texts stay dictionary-encoded: a small file may contain a long text a million times.
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
  """Return a cell, truncated if it is too long."""
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
  """Return a cell. Reading the cells of a row group in order is fastest, since earlier rows are skipped.

  Raises:
    UserError: the table can't be read.
  """
  global _reader
  if _reader is None or not _reader.is_before(path, group, row, column):
    _reader = _Reader(path, group, column)
  return _reader.read(row)


class _Reader:
  """Reads one column of a row group row by row.

  Args:
    path: path of the table.
    group: number of the row group.
    column: name of the column.
  """

  def __init__(self, path: Path, group: int, column: str):
    self._place, self._row = (path, group, column), 0
    self._rows = self._read()

  def is_before(self, path: Path, group: int, row: int, column: str) -> bool:
    """Return whether this reader can still reach a cell."""
    return self._place == (path, group, column) and self._row <= row

  def read(self, row: int) -> Any:
    """Return the cell of a row, and skip earlier rows."""
    for cell in self._rows:
      self._row += 1
      if self._row > row:
        return cell.as_py()
    raise UserError(f"{self._place[0]} has no row {row} in row group {self._place[1]}")

  def _read(self) -> Iterator[Any]:
    import pyarrow as pa

    path, group, column = self._place
    with _open(path) as file:
      for row, batch in enumerate(file.iter_batches(1, row_groups=[group], columns=[column], use_threads=False)):
        if row == 0:  # A page was copied, which may be all of the row group; the allocator would keep its memory.
          pa.default_memory_pool().release_unused()
        yield from batch.column(0)


_reader: _Reader | None = None  # The last reader; rows are mostly read in order.


@contextlib.contextmanager
def _open(path: Path, **options: Any) -> Generator[Any]:
  """Open a table, and turn errors of the library into ones that name the file, also while it is read."""
  import pyarrow as pa  # Slow to import, and needed only for these tables.
  import pyarrow.parquet as pq

  check_regular(path)  # The library would block on a pipe.
  try:
    with pq.ParquetFile(local_copy(path), pre_buffer=False, buffer_size=_BUFFER, **options) as file:
      yield file
  except (pa.ArrowException, OSError) as error:
    if isinstance(error, OSError) and error.errno is not None:
      raise
    check_fetched(path)
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"{path} is not Parquet that can be read: {reason}") from None
