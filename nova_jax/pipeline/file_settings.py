"""Settings as files have them: texts, numbers, lists and objects, of a line of prompts or of a provenance.

Invariant: what is returned makes a `Request`, and means the same however it was spelt: 2 for 2.0, "0,0,4,8" for a list.
"""

import re
from collections.abc import Mapping
from typing import Any

from nova_jax.config import LARGEST
from nova_jax.pipeline.request import SETTINGS, Request, check_seeds
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean, kind_name

# Types of what a file may set, and names that settings had or have in files, with their names of today.
KINDS = {name: declared.kind for name, declared in SETTINGS.items() if declared.scope != "array"}
STORED_AS = {name: declared.stored_as for name, declared in SETTINGS.items() if declared.stored_as}
RENAMED = {stored: name for name, stored in STORED_AS.items()}


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Return settings with each value in its own type.

  Raises:
    UserError: an unknown name, a value of another type, or one that no model can do.
  """
  checked = {}
  for name, value in settings.items():
    name = RENAMED.get(name, name)
    if name not in KINDS:
      raise UserError(f"{name} is not a setting of a line{did_you_mean(name, KINDS)}")
    if name in checked:
      raise UserError(f"{name}: it is given twice, also by its old name, {STORED_AS[name]}")
    kind = KINDS[name]
    if kind is int and isinstance(value, float) and value.is_integer():
      value = int(value)  # A table has 2.0 for 2 where other lines leave it empty.
    if isinstance(value, bool) or not isinstance(value, (float, int) if kind is float else kind):
      raise UserError(f"{name}: expected {kind_name(kind)}, got {str(value)[:80]!r}")
    if isinstance(value, str):
      _check_text(name, value)
    try:
      checked[name] = float(value) if kind is float else value
    except OverflowError:
      raise UserError(f"{name}: expected a finite number, got one of more than 300 digits") from None
  if ("prompt" in checked) == ("label" in checked):
    raise UserError("give a prompt, or a label for a class-conditional model")
  checked = restore(checked)
  if isinstance(checked.get("mask"), str):
    checked["mask"] = read_box(checked["mask"])
  for name in ("mask", "outpaint_box"):
    box = checked.get(name)
    if isinstance(box, list) and ([type(side) for side in box] != [int] * 4 or min(box) < 0 or max(box) > LARGEST):
      raise UserError(f"{name}: expected TOP, LEFT, BOTTOM, RIGHT in pixels, got {str(box)[:80]}")
  check_seeds(checked.get("seed", 0))
  Request.from_settings(checked)
  return checked


def to_stored(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Return settings by the names that files of outputs have them by; names of files depend on them."""
  return {STORED_AS.get(name, name): value for name, value in settings.items()}


def restore(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Undo what JSON does to settings: keys become texts."""
  later = settings.get("later_prompts")
  if not isinstance(later, dict):
    return dict(settings)
  whole = lambda frame: int(frame) if frame.isdecimal() and len(frame) < 20 else frame
  return {**settings, "later_prompts": {whole(frame): text for frame, text in later.items()}}


def read_box(text: str) -> list[int] | str:
  """Return the numbers of "TOP,LEFT,BOTTOM,RIGHT", or what names a file as it is."""
  sides = text.split(",")
  if "," in text and re.fullmatch(r"[-+\d., ]+", text) and not all(side.strip().isdecimal() for side in sides):
    raise UserError(f"mask: expected TOP,LEFT,BOTTOM,RIGHT in pixels, four whole numbers from 0 on, got {text[:80]!r}")
  return [int(side) for side in sides] if all(side.strip().isdecimal() for side in sides) else text


def _check_text(name: str, text: str) -> None:
  try:
    size = len(text.encode())
  except UnicodeEncodeError as error:
    raise UserError(f"{name}: {text[:60]!r} is not valid Unicode: {error.reason}") from None
  if size > limits.CAPTION_BYTES:
    raise UserError(f"{name}: expected at most {limits.CAPTION_BYTES:,} bytes, got {size:,}")
