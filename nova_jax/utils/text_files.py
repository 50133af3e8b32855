"""Reads text, lines and JSON from files that users and other programs wrote.

Text is UTF-8, with or without a byte order mark, in every locale. A line ends at a line feed, a carriage return or
both. Form feeds and Unicode's separators don't end a line.
Invariant: an error names the file, and the line where there is one.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import is_deeper, read_bytes

_MARK = "\ufeff"
_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Zs")  # Categories of Unicode characters that don't show.
# Other files that are passed as text by mistake, by their first bytes.
_OTHERS = (
    (re.compile(rb"version https://git-lfs\.github\.com/spec/"),
     "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE),
     "is a web page, not the file itself: its download may need a login; download it again"),
    (re.compile(rb"PK\x03\x04"), "is an Excel workbook or a ZIP archive: save it as CSV in UTF-8, or unpack it"),
    (re.compile(rb"\x1f\x8b|BZh\d|\xfd7zXZ\0|\x28\xb5\x2f\xfd"), "is compressed: unpack it"),
    (re.compile(rb"PAR1"), "is Parquet: let its name end in .parquet"))
_MARKS = {  # In order: the mark of UTF-32 begins with that of UTF-16.
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_text(path: str | Path, limit: int = limits.TEXT_FILE_BYTES) -> str:
  """Read a text file; each line ending becomes a line feed.

  Args:
    path: path of the file.
    limit: largest number of bytes.

  Raises:
    UserError: the file can't be read, is too large or is not UTF-8.
  """
  return re.sub("\r\n?", "\n", decode(read_bytes(path, limit), str(path)))


def read_lines(path: str | Path) -> list[str]:
  """Read the lines of a text file without their endings; the last ending starts no new line.

  Raises:
    UserError: the file can't be read, is too large or is not UTF-8.
  """
  lines = read_text(path).split("\n")
  return lines if lines[-1] else lines[:-1]


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
  """Yield number and value of each line of a JSON lines file; blank lines are counted, but not yielded.

  Raises:
    UserError: the file can't be read, or a line is not JSON.
  """
  for number, line in enumerate(read_lines(path), 1):
    if line.strip():
      yield number, parse_json(line, f"{path}:{number}")


def read_json_value(path: str | Path) -> Any:
  """Read a JSON file.

  Raises:
    UserError: the file can't be read, is too large or is not JSON.
  """
  return parse_json(read_text(path, limits.JSON_FILE_BYTES), str(path))


def parse_json(text: str, where: str) -> Any:
  """Return the value of a JSON text, in which no object may have two values for a name.

  Args:
    text: JSON text.
    where: file and line for errors.

  Raises:
    UserError: the text is not valid JSON, or ambiguous.
  """
  try:
    value = json.loads(text, object_pairs_hook=_unlike)
    if re.search(r"\\u[dD][89a-fA-F]", text):
      json.dumps(value, ensure_ascii=False).encode()
    # A text with few brackets can't be nested deeply; this is fast for long files.
    deep = text.count("[") + text.count("{") > limits.JSON_DEPTH and is_deeper([value], limits.JSON_DEPTH + 1)
  except RecursionError:
    deep = True
  except UnicodeEncodeError:
    raise UserError(f"{where}: half of a pair of surrogates, which is no character") from None
  except _Twice as error:
    raise UserError(f"{where}: {error}") from None
  except ValueError as error:
    reason = "a number has too many digits" if "digits" in str(error) else str(error)
    if isinstance(error, json.JSONDecodeError):
      line = f"line {error.lineno}, " if "\n" in text else ""
      reason = f"{error.msg} at {line}character {error.colno}"
    raise UserError(f"{where} is not JSON: {reason}") from None
  if deep:
    raise UserError(f"{where} is nested too deeply: expected at most {limits.JSON_DEPTH} values within each other")
  return value


class _Twice(UserError):
  """An object has two values for one name."""


def _unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  values = dict(pairs)
  if len(values) < len(pairs):
    for name, value in pairs:
      if value != values[name] and value == value:  # NaN differs from itself.
        raise _Twice(f"{name!r} stands twice in an object, with two values")
  return values


def decode(content: bytes, where: str) -> str:
  """Decode the content of a text file, without a byte order mark.

  Args:
    content: bytes of the file.
    where: name of the file for errors.

  Raises:
    UserError: the content is not UTF-8 or has zero bytes; the error names line and byte.
  """
  check_encoding(content, where)
  try:
    text = content.decode()
  except UnicodeDecodeError as error:
    number, byte = _line_and_byte(content, error.start)
    raise UserError(
        f"{where}:{number} is not UTF-8: byte {byte} of the line is 0x{content[error.start]:02x}; "
        "save the file as UTF-8") from None
  if "\0" in text:
    number, byte = _line_and_byte(content, content.index(0))
    raise UserError(f"{where}:{number}: byte {byte} of the line is zero, which no text has")
  return without_marks(text)


def check_encoding(content: bytes, where: str) -> None:
  """Raise UserError if content is UTF-16 or UTF-32, with or without a byte order mark, or not text at all."""
  if other := next((reason for pattern, reason in _OTHERS if pattern.match(content)), None):
    raise UserError(f"{where} {other}")
  name = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
  start = content[:64]
  if not name and len(start) > 3 and start.count(0) >= len(start) // 2 - 1:  # As in Latin text.
    name = "UTF-32" if start.count(0) > len(start) * 5 // 8 else "UTF-16"
  if name:
    raise UserError(
        f"{where} is {name}, as Excel and PowerShell may save text; expected UTF-8: save it as UTF-8, or convert it "
        f"with iconv -f {name} -t UTF-8")


def is_blank(text: str) -> bool:
  """Return whether a text has only spaces and control characters."""
  return all(unicodedata.category(character) in _UNSEEN for character in text)


def without_marks(text: str) -> str:
  """Return a text without byte order marks at its beginning or where files were concatenated."""
  return text.removeprefix(_MARK).replace(f"\n{_MARK}", "\n") if _MARK in text else text


def _line_and_byte(content: bytes, position: int) -> tuple[int, int]:
  """Return the line of a byte, and its position in the line, both counted from 1."""
  before = re.sub(b"\r\n?", b"\n", content[:position])
  return before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
