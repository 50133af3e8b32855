"""Lists of prompts, a clip a line, each with settings of its own.

  .txt     a prompt a line; empty lines and lines that start with # are left out
  .csv     a header with names of settings, "prompt" or "label" among them; an empty field takes the default
  .jsonl   an object of settings a line
Invariant: every error names file and line.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nova_jax.fields import did_you_mean
from nova_jax.recipe import restore
from nova_jax.request import Request

# What a line may set.
SETTINGS = {
    "prompt": str, "negative_prompt": str, "label": int, "image": str, "video": str, "mask": (str, list), "place": list,
    "context_frames": int, "num_samples": int, "num_frames": int, "window": int, "later_prompts": dict,
    "later_context": int, "num_inference_steps": int, "later_inference_steps": int, "num_diffusion_steps": int,
    "refresh_every": int, "guidance_scale": float, "min_guidance_scale": float, "guidance_trunc": float,
    "guidance_renorm": float, "image_guidance_scale": float, "flow_shift": float, "motion_flow": float, "fps": float,
    "seed": int}


def read_prompts(path: str | Path) -> list[dict[str, Any]]:
  """Read the settings of each line of a file.

  Raises:
    ValueError: the file can't be read, or a line doesn't say what to make.
  """
  path = Path(path)
  readers = {".txt": _text, ".csv": _csv, ".jsonl": _jsonl}
  if path.suffix not in readers:
    raise ValueError(f"{path}: expected a file of {', '.join(readers)}")
  try:
    text = path.read_text(encoding="utf-8-sig")  # Tables that Excel writes begin with a mark.
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} can't be read: {error.strerror if isinstance(error, OSError) else error}") from None
  lines = [_check(settings, f"{path}:{number}") for number, settings in readers[path.suffix](text, path)]
  if not lines:
    raise ValueError(f"{path} has no prompts")
  return lines


def _text(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
  for number, line in enumerate(text.splitlines(), 1):
    if line.strip() and not line.startswith("#"):
      yield number, {"prompt": line.strip()}


def _csv(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
  reader = csv.DictReader(io.StringIO(text))
  for row in reader:
    where = f"{path}:{reader.line_num}"
    if None in row or None in row.values():
      raise ValueError(f"{where}: expected {len(reader.fieldnames)} fields, as the header has")
    values = {}
    for name, field in row.items():
      kind = SETTINGS.get(name, str)
      try:
        if field:
          values[name] = json.loads(field) if kind in (dict, list) else kind(field) if kind in (int, float) else field
      except ValueError:
        raise ValueError(f"{where}: {name}: expected {kind.__name__}, got {field!r}") from None
    yield reader.line_num, values


def _jsonl(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
  for number, line in enumerate(text.split("\n"), 1):  # Texts in JSON may have other breaks of lines.
    if line.strip():
      try:
        values = json.loads(line)
      except ValueError as error:
        raise ValueError(f"{path}:{number} is not JSON: {error}") from None
      if not isinstance(values, dict):
        raise ValueError(f"{path}:{number}: expected an object of settings, got {line.strip()!r}")
      yield number, values


def _check(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
  for name, value in settings.items():
    if name not in SETTINGS:
      raise ValueError(f"{where}: {name} is not a setting of a line{did_you_mean(name, SETTINGS)}")
    kind = (float, int) if SETTINGS[name] is float else SETTINGS[name]
    if not isinstance(value, kind) or isinstance(value, bool):
      expected = kind[0] if isinstance(kind, tuple) else kind
      raise ValueError(f"{where}: {name}: expected {expected.__name__}, got {value!r}")
  if ("prompt" in settings) == ("label" in settings):
    raise ValueError(f"{where}: give a prompt, or a label for a class-conditional model")
  try:
    settings = restore(settings)
    if isinstance(settings.get("mask"), str):
      settings["mask"] = read_box(settings["mask"])
    # A line has 3 where a flag has 3.0, and a recipe tells them apart.
    settings |= {name: float(value) for name, value in settings.items() if SETTINGS[name] is float}
    Request.of(settings)
  except (OverflowError, ValueError) as error:  # A whole number may be too large for a float.
    raise ValueError(f"{where}: {error}") from None
  return settings


def read_box(text: str) -> list[int] | str:
  """Return the numbers of "TOP,LEFT,BOTTOM,RIGHT", or what names a file as it is."""
  sides = text.split(",")
  return [int(side) for side in sides] if all(side.strip().isdecimal() for side in sides) else text


def expand(lines: list[dict[str, Any]], common: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
  """Return the settings of each clip.

  Args:
    lines: what each line says.
    common: what holds for all unless a line says otherwise.
    seed: of the first clip; clip i has `seed + i`, sample j of a line with a seed of its own that seed + j.

  Raises:
    ValueError: prompts and classes together, or a setting that no model can do.
  """
  if len({"label" in line for line in lines}) > 1:
    raise ValueError("label: a model takes either prompts or classes, got both")
  clips = []
  for line in lines:
    settings = {**common, **line}
    Request.of(settings)
    for sample in range(settings.pop("num_samples", 1)):
      own = line["seed"] + sample if "seed" in line else seed + len(clips)
      clips.append({**settings, "seed": own})
  return clips
