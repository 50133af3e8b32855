"""Records of a latent cache: a clip or still each, as bytes with a checksum, many of them in a file.

A stored record is a CRC-32 (4 bytes, little endian) and then safetensors: `moments` float16 [T, h, w, M] and, if the
cache has them, `text_embeds` and `short_text_embeds` float16 [L, E], with all else as JSON in its metadata.
Invariant: the same records give the same bytes, and bytes that are not a record's are a `DamagedRecord`.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Float16
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_holds_runs, storage_error, write_atomically

# Latents hardly compress, and a reader that takes one record reads nothing else.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0"
_BLOCK_OPTIONS = "readahead_buffer_size:{},max_parallelism:1"  # Else each of several threads asks for a part.


@dataclasses.dataclass(frozen=True)
class Record:
  """One clip or still.

  Attributes:
    moments: of its latents, mean then log-variance, before sampling, shift and scale (see `AutoencoderInfo.latents`).
    caption: may be empty.
    source: which item of the source it was.
    short_caption: None if the source has none.
    text_embeds: of the caption, without padding; None if the cache has no text encoder.
    short_text_embeds: of the short caption.
    fps: frames of the clip a second; None for a still.
    motion_flow: motion score; None for a still.
  """

  moments: Float16[np.ndarray, "T h w M"]
  caption: str
  source: str = ""
  short_caption: str | None = None
  text_embeds: Float16[np.ndarray, "L E"] | None = None
  short_text_embeds: Float16[np.ndarray, "L E"] | None = None
  fps: float | None = None
  motion_flow: float | None = None


_ARRAYS = ("moments", "text_embeds", "short_text_embeds")


class DamagedRecord(UserError):
  """A record that is not what was written."""


def encode_record(record: Record) -> bytes:
  """Return the bytes that are stored of a record."""
  arrays = {name: np.ascontiguousarray(value) for name in _ARRAYS if (value := getattr(record, name)) is not None}
  for name, value in arrays.items():
    assert value.dtype == np.float16, f"{name} is {value.dtype}, not float16"
  fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name not in _ARRAYS}
  # One key: safetensors writes several in no particular order.
  content = save_tensors(arrays, {"record": json.dumps(fields, sort_keys=True, ensure_ascii=False)})
  return zlib.crc32(content).to_bytes(4, "little") + content


def decode_record(stored: bytes) -> Record:
  """Return the record that bytes stand for.

  Raises:
    DamagedRecord: they are not what was written, or nothing that is written here.
  """
  content = stored[4:]
  if len(content) < 8 or zlib.crc32(content) != int.from_bytes(stored[:4], "little"):
    raise DamagedRecord("its checksum is wrong")
  try:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    record = Record(**json.loads(header["__metadata__"]["record"]), **load_tensors(content))
  except (KeyError, TypeError, ValueError, RecursionError, SafetensorError):
    raise DamagedRecord("it holds something else than a record") from None
  _check_record(record)
  return record


def _check_record(record: Record) -> None:
  """Refuse fields of other types, which only another program can have written."""
  texts = (record.caption, record.source, record.short_caption or "")
  numbers = (record.fps or 0, record.motion_flow or 0)
  arrays = [(4, record.moments), *((2, array) for array in (record.text_embeds, record.short_text_embeds))]
  if not (all(isinstance(text, str) for text in texts)
          and all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
          and all(array is None or array.dtype == np.float16 and array.ndim == ndim and np.isfinite(array).all()
                  for ndim, array in arrays)):
    raise DamagedRecord("its fields are not those of a record")


def write_shard(path: Path, records: Iterable[bytes]) -> tuple[int, str]:
  """Write encoded records as one file, whole or not at all; return its size and SHA-256.

  Raises:
    OSError: a disk that is full, for one.
  """

  written: list[tuple[int, str]] = []

  def write(temporary: Path) -> None:
    try:
      writer = ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
      for record in records:
        writer.write(record)
      writer.close()
    except RuntimeError as error:
      raise storage_error(error, path) or OSError(errno.EIO, f"can't be written: {error}", str(path)) from None

    written.append((temporary.stat().st_size, file_sha256(temporary)))

  write_atomically(path, write)
  return written[0]


def file_sha256(path: Path) -> str:
  """Return a file's SHA-256; an error of reading it names the file."""
  try:
    with path.open("rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    error.filename = str(path)
    raise


class ShardReader:
  """Reads the records of a shard in any order.

  Raises:
    UserError: the file is missing, or can't be read at all.
    OSError: storage fails, here and in reads; that says nothing of the file.
  """

  def __init__(self, path: Path, ahead: int = 0):
    """Open a file.

    Args:
      path: of it.
      ahead: bytes that are requested at once where several records are read.
    """
    self._path = check_holds_runs(path)
    if not path.is_file():
      raise UserError(f"{path} does not exist")
    try:
      self._reader = ArrayRecordReader(str(path), _BLOCK_OPTIONS.format(ahead) if ahead else _READER_OPTIONS)
      self._num_records = self._reader.num_records()
      if not self._num_records:
        self._reader.read([0])  # A file that could not be opened seems to be empty.
    except (RuntimeError, IndexError) as error:
      raise storage_error(error, path) or ValueError(f"{path} can't be read: {error}") from None

  def __len__(self) -> int:
    return self._num_records

  def __getitem__(self, index: int) -> Record:
    """Read a record; one that is not what was written is a `DamagedRecord`."""
    return decode_record(self.stored(index, index + 1)[0])

  def stored(self, start: int, stop: int) -> Sequence[bytes]:
    """Read some records as they are stored; if one can't be read, a `DamagedRecord` stands for all."""
    try:
      return self._reader.read(start, stop) if stop > start + 1 else self._reader.read([start])
    except (RuntimeError, IndexError) as error:
      if failed := storage_error(error, self._path):
        raise failed from None
      raise DamagedRecord(" ".join(str(error).split(";")[0].split())) from None

  def close(self) -> None:
    """Close the file; of a damaged one the library says so once more, which reads have already said."""
    with contextlib.suppress(RuntimeError):
      self._reader.close()
