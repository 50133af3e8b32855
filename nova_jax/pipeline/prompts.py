"""Lists of prompts, a clip a line, each with settings of its own.

  .txt     a prompt a line; empty lines and lines that start with # are left out
  .csv     a header with names of settings, "prompt" or "label" among them; an empty field takes the default
  .jsonl   an object of settings a line; null and NaN take the default
  .json    an array of such objects
Invariant: every error names file and line.
"""

import contextlib
import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nova_jax.media import readers
from nova_jax.media.tables import check_rows, inner_rows, read_table
from nova_jax.pipeline.file_settings import KINDS, RENAMED, check_settings
from nova_jax.pipeline.latent_files import is_latents, latents_shape
from nova_jax.pipeline.request import FILES, Request, check_seeds
from nova_jax.storage import as_path
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import kind_name
from nova_jax.utils.renamed import tell_new_name
from nova_jax.utils.text_files import is_blank, parse_json, read_lines


def read_named(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
  """Read the settings of each line of a file, and how errors name that line.

  Raises:
    UserError: the file can't be read, or a line doesn't say what to make.
  """
  path = as_path(path)
  readers = {".txt": _text, ".csv": _csv, ".jsonl": _json, ".json": _json}
  if path.suffix.lower() not in readers:
    raise UserError(f"{path}: expected a file of {', '.join(readers)}")
  lines = [(where, _check(settings, where)) for where, settings in readers[path.suffix.lower()](path)]
  if not lines:
    notes = "; lines that begin with # are notes" if path.suffix.lower() == ".txt" else ""
    raise UserError(f"{path} has no prompts{notes}")
  return lines


def _text(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  for number, line in enumerate(read_lines(path), 1):
    if line.strip() and not line.startswith("#"):
      yield f"{path}:{number}", {"prompt": line.strip()}


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  table = check_rows(read_table(path))
  for row in table.rows:
    for inner in inner_rows(row, table.columns):
      if any(KINDS.get(name) in (int, float) and _is_number(field) for name, field in inner.items()):
        raise UserError(f"{row.where}: a quote is open over other rows; close it, or double quotes within quotes")
    values = {}
    for name, field in row.values.items():
      if not field:
        continue
      kind = KINDS.get(name, str)
      where = f"{row.where}: {name}"
      try:
        values[name] = parse_json(field, where) if kind in (dict, list) else (
            _number(field) if kind in (int, float) else field)
      except ValueError:
        raise UserError(f"{where}: expected {kind_name(kind)}, got {field[:80]!r}") from None
    yield row.where, values


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  for row in check_rows(read_table(path)).rows:
    yield row.where, {name: value for name, value in row.values.items() if value is not None}


def _check(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
  for old in RENAMED.keys() & settings.keys():
    tell_new_name(f"{where}: {old}", RENAMED[old])
  with naming(where):
    settings = check_settings(settings)
    if is_blank(settings.get("prompt", "class")):
      raise UserError("the prompt is empty; say what to show, or leave the line out")
    return settings


def _number(text: str) -> int | float:
  try:
    return int(text)
  except ValueError:
    return float(text)


def expand(
    lines: list[dict[str, Any]], common: Mapping[str, Any], seed: int, places: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
  """Return the settings of each clip, and the place of its line.

  Args:
    lines: what each line says.
    common: what holds for all unless a line says otherwise.
    seed: of the first clip; clip i has `seed + i`, sample j of a line with a seed of its own that seed + j.
    places: how errors name each line; "" or none for not at all.

  Raises:
    UserError: prompts and classes together, a setting that no model can do, or a file that isn't there.
  """
  if len({"label" in line for line in lines}) > 1:
    raise UserError("label: a model takes either prompts or classes, got both")
  clips, clip_places = [], []
  for line, place in zip(lines, itertools.chain(places, itertools.repeat("")), strict=False):
    settings = {**common, **line}
    with naming(place):
      Request.from_settings(settings)
      count, first = settings.pop("num_samples", 1), line.get("seed", seed + len(clips))
      if len(clips) + count > limits.CLIPS:
        raise UserError(f"num_samples: expected at most {limits.CLIPS:,} clips in all (limits.CLIPS)")
      check_seeds(first)
      if first + count > 2**32:
        raise UserError(
            f"seed: clips have {first}, {first} + 1 and so on, and {count} clips would pass {2**32 - 1}; expected a "
            "smaller one")
    clips += [{**settings, "seed": first + sample} for sample in range(count)]
    clip_places += [place] * count
  _check_files(clips, clip_places)
  return clips, clip_places


def _check_files(clips: Sequence[Mapping[str, Any]], places: Sequence[str]) -> None:
  """Refuse pictures and videos that aren't there, or that are none; no more is read than tells."""
  seen = set()
  for settings, place in zip(clips, places, strict=True):
    for name in FILES:
      path = settings.get(name)
      if isinstance(path, str) and (name, path) not in seen:
        seen.add((name, path))
        with naming(place):
          latents_shape(path) if name == "video" and is_latents(path) else readers.check_file(path, name)


@contextlib.contextmanager
def naming(place: str) -> Generator[None]:
  """Let errors begin with the place of what they are about; "" for none."""
  try:
    yield
  except UserError as error:
    raise UserError(f"{place}: {error}" if place else str(error)) from error
