"""Lists of prompts, a clip a line, each with settings of its own.

  .txt     a prompt a line; empty lines and lines that start with # are left out
  .csv     a header with names of settings, "prompt" or "label" among them; an empty field takes the default
  .jsonl   an object of settings a line; null and NaN take the default
  .json    an array of such objects
Invariant: every error names file and line.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nova_jax import limits
from nova_jax.fields import did_you_mean
from nova_jax.recipe import restore
from nova_jax.request import Request
from nova_jax.tables import check_rows, read_table
from nova_jax.text_files import parse_json, read_lines

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
  readers = {".txt": _text, ".csv": _csv, ".jsonl": _json, ".json": _json}
  if path.suffix.lower() not in readers:
    raise ValueError(f"{path}: expected a file of {', '.join(readers)}")
  lines = [_check(settings, where) for where, settings in readers[path.suffix.lower()](path)]
  if not lines:
    raise ValueError(f"{path} has no prompts")
  return lines


def _text(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  for number, line in enumerate(read_lines(path), 1):
    if line.strip() and not line.startswith("#"):
      yield f"{path}:{number}", {"prompt": line.strip()}


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  for row in check_rows(read_table(path)).rows:
    values = {}
    for name, field in row.values.items():
      if not field:
        continue
      kind = SETTINGS.get(name, str)
      where = f"{row.where}: {name}"
      try:
        values[name] = parse_json(field, where) if kind in (dict, list) else (
            kind(field) if kind in (int, float) else field)
      except ValueError:
        raise ValueError(f"{where}: expected {kind.__name__}, got {field[:80]!r}") from None
    yield row.where, values


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  for row in check_rows(read_table(path)).rows:
    yield row.where, {name: value for name, value in row.values.items() if value is not None}


def _check(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
  for name, value in settings.items():
    if name not in SETTINGS:
      raise ValueError(f"{where}: {name} is not a setting of a line{did_you_mean(name, SETTINGS)}")
    kind = (float, int) if SETTINGS[name] is float else SETTINGS[name]
    if not isinstance(value, kind) or isinstance(value, bool):
      expected = kind[0] if isinstance(kind, tuple) else kind
      raise ValueError(f"{where}: {name}: expected {expected.__name__}, got {str(value)[:80]!r}")
    if isinstance(value, str) and (size := len(value.encode())) > limits.CAPTION_BYTES:
      raise ValueError(f"{where}: {name}: expected at most {limits.CAPTION_BYTES:,} bytes, got {size:,}")
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
