"""Cells of tables and texts beside clips: captions and times, read with care.

Invariant: a cell that can't be used says so by `Unusable`, in words that name its field.
"""

import dataclasses
import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

from nova_jax.media.tables import is_missing
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.text_files import decode

_MOST_SECONDS = 1e7
_TIME = re.compile(r"(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:[.,]\d*)?)")  # As players show it.


class Unusable(UserError):
  """Why an item can't become a record."""


@dataclasses.dataclass(frozen=True)
class Other:
  """A cell of a type that is neither text nor a number, in short.

  Attributes:
    kind: name of the type.
    text: its beginning.
    number: that it stands for; None if there is none.
  """

  kind: str
  text: str
  number: float | None = None

  def __str__(self) -> str:
    return self.text

  def __float__(self) -> float:
    if self.number is None:
      raise TypeError(f"{self.kind} is no number")
    return self.number


def number_of(value: Any) -> float:
  """Return the number that a cell stands for, of times the seconds; errors as of `float`."""
  if isinstance(value, datetime.timedelta):
    return value.total_seconds()
  if isinstance(value, datetime.time):
    return 3600 * value.hour + 60 * value.minute + value.second + value.microsecond / 1e6
  return float(value)


def is_number(value: Any) -> bool:
  """Return whether a value of JSON is a number."""
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def decode_text(content: bytes) -> str:
  """Return the text of a caption."""
  try:
    return decode(content, "its caption")
  except ValueError as error:
    raise Unusable(str(error)) from None


def read_text(fields: Mapping[str, Any], name: str) -> str | None:
  """Return a text without spaces around it; None where there is no value."""
  value = fields.get(name)
  if isinstance(value, bytes):
    value = decode_text(value)
  if is_missing(value):
    return None
  if not isinstance(value, str):
    raise Unusable(f"{name}: expected text, got {value.kind if isinstance(value, Other) else type(value).__name__}")
  try:
    size = len(value.encode())
  except UnicodeEncodeError:
    raise Unusable(f"{name}: not UTF-8") from None
  if size > limits.CAPTION_BYTES:
    raise Unusable(f"{name}: {size:,} bytes; expected at most {limits.CAPTION_BYTES:,} (CAPTION_BYTES)")
  if "\0" in value:
    raise Unusable(f"{name}: it has a zero byte, which no text has")
  return value.strip()


def read_seconds(fields: Mapping[str, Any], name: str) -> float | None:
  """Return a time in seconds, which may be written as [hours:]minutes:seconds; None where there is no value."""
  value: Any = fields.get(name)
  if is_missing(value) or value == "":
    return None
  if isinstance(value, bytes):
    value = decode_text(value)
  try:
    if isinstance(value, str) and (parts := _TIME.fullmatch(value.strip())):
      seconds = 3600 * int(parts[1] or 0) + 60 * int(parts[2]) + float(parts[3].replace(",", "."))
    else:
      seconds = -1.0 if isinstance(value, bool) else number_of(value)
  except (OverflowError, TypeError, ValueError):
    seconds = -1.0
  if math.isnan(seconds):  # As tables write it where there is no value.
    return None
  if not 0 <= seconds <= _MOST_SECONDS:
    raise Unusable(f"{name}: expected seconds, or hours:minutes:seconds, got {str(value)[:80]!r}")
  return seconds
