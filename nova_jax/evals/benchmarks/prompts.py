"""Reads the prompt files of the benchmarks in their published forms.

  GenEval         evaluation_metadata.jsonl: one JSON object with `prompt` per line
  GenEval 2       geneval2_data.jsonl: the same, with `vqa_list`
  VBench          VBench_full_info.json: [{"prompt_en", "dimension"}, …]; or NOVA's prompts.json: [{"prompt", "tag"},
                  …]; or the folder prompts_per_dimension/ with one prompt per line in {dimension}.txt
  VBench-I2V      vbench2_i2v_full_info.json: [{"prompt_en", "image_name"}, …]
  VBench-2.0      VBench2_full_info.json: [{"prompt_en", "dimension"}, …]; or the folder prompts/prompt with one prompt
                  per line in {dimension}.txt
  DPG-Bench       the folder prompts/ with one {name}.txt per prompt, or dpg_bench.csv with `item_id` and `text`
  T2I-CompBench   {category}_val.txt: one prompt per line, up to a tab

Rewritten prompts are in NOVA's prompts.json: [{"prompt", "dense_prompt"}, …], with `tag` for VBench. The model reads
the dense prompt.
Invariant: prompts equal those that the official scorer reads, character by character.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nova_jax.media.tables import check_rows, read_table
from nova_jax.utils.errors import UserError
from nova_jax.utils.text_files import is_blank, parse_json, read_json_value, read_lines, read_text

# VBench scores 16 dimensions on the videos of 11 suites of prompts, each of which has its own folder.
VBENCH_FOLDERS = {
    "subject_consistency": "subject_consistency", "background_consistency": "scene",
    "temporal_flickering": "temporal_flickering", "motion_smoothness": "subject_consistency",
    "dynamic_degree": "subject_consistency", "aesthetic_quality": "overall_consistency",
    "imaging_quality": "overall_consistency", "object_class": "object_class", "multiple_objects": "multiple_objects",
    "human_action": "human_action", "color": "color", "spatial_relationship": "spatial_relationship", "scene": "scene",
    "temporal_style": "temporal_style", "appearance_style": "appearance_style",
    "overall_consistency": "overall_consistency"}


VBENCH2_DIMENSIONS = (
    "Human_Anatomy", "Human_Identity", "Human_Clothes", "Diversity", "Composition", "Dynamic_Spatial_Relationship",
    "Dynamic_Attribute", "Motion_Order_Understanding", "Human_Interaction", "Complex_Landscape", "Complex_Plot",
    "Camera_Motion", "Motion_Rationality", "Mechanics", "Thermotics", "Material", "Multi-View_Consistency",
    "Instance_Preservation")


class Prompt(NamedTuple):
  """A prompt of a benchmark."""

  text: str
  group: str = ""  # VBench: name of the folder; DPG-Bench: name of the file.
  metadata: str = ""  # GenEval: line of the prompt file.
  image: str = ""  # VBench-I2V: name of the first frame.


def read_geneval(path: Path) -> list[Prompt]:
  """Read `evaluation_metadata.jsonl`."""
  return _read_objects(path, ("tag", "include", "prompt"), "evaluation_metadata.jsonl", keep=True)


def read_geneval2(path: Path) -> list[Prompt]:
  """Read `geneval2_data.jsonl`."""
  return _read_objects(path, ("prompt", "vqa_list"), "geneval2_data.jsonl")


def _read_objects(path: Path, fields: Sequence[str], name: str, keep: bool = False) -> list[Prompt]:
  """Read a file with a JSON object a line, which has some fields; keep its lines as metadata."""
  prompts = []
  for number, line in enumerate(_lines(path), 1):
    where = f"{path}:{number}"
    try:
      values = parse_json(line, where)
    except ValueError as error:
      raise UserError(
          f"{error}; expected {name}, a JSON object a line (rewritten prompts are for --rewritten)") from None
    if not isinstance(values, dict) or not set(fields) <= values.keys():
      raise UserError(f"{where}: expected an object with {', '.join(fields)}, got {line[:80]}")
    prompts.append(Prompt(_text(values["prompt"], where), metadata=line.strip() if keep else ""))
  return prompts


def read_vbench(path: Path) -> list[Prompt]:
  """Read VBench's list, NOVA's list, or the folder with a text file per dimension."""
  if path.is_dir():
    files = _text_files(path)
    for file in files:
      _known_dimension(file.stem, file)
    # Only the suite's own file, since the other dimensions are scored on its videos.
    return [
        Prompt(_text(line.strip(), file), file.stem) for file in files if VBENCH_FOLDERS[file.stem] == file.stem
        for line in _lines(file)]
  prompts = []
  for number, values in enumerate(_json_list(path), 1):
    where = f"{path}, entry {number}"
    text = _text(values.get("prompt_en", values.get("prompt")), where)
    dimensions = values.get("dimension", values.get("tag"))
    dimensions = dimensions if isinstance(dimensions, list) else [dimensions] if dimensions else []
    folders = sorted({_known_dimension(dimension, where) for dimension in dimensions})
    if not folders:
      raise UserError(f"{where}: expected dimension (VBench's list) or tag (NOVA's), got {sorted(values)}")
    prompts += [Prompt(text, folder) for folder in folders]
  return prompts


def read_vbench_i2v(path: Path) -> list[Prompt]:
  """Read VBench-I2V's list."""
  prompts = []
  for number, values in enumerate(_json_list(path), 1):
    where = f"{path}, entry {number}"
    image = values.get("image_name")
    if not isinstance(image, str) or not image:
      raise UserError(
          f"{where}: expected prompt_en and image_name, as in vbench2_i2v_full_info.json, got {sorted(values)}")
    prompts.append(Prompt(_text(values.get("prompt_en"), where), image=image))
  return prompts


def read_vbench2(path: Path) -> list[Prompt]:
  """Read VBench-2.0's list, or the folder with a text file per dimension."""
  if path.is_dir():
    return [
        Prompt(_text(line.strip(), file), _vbench2_dimension(file.stem, file)) for file in _text_files(path)
        for line in _lines(file)]
  return [
      Prompt(_text(values.get("prompt_en"), where), _vbench2_dimension(dimension, where))
      for number, values in enumerate(_json_list(path), 1) for where in [f"{path}, entry {number}"]
      for dimension in values.get("dimension") or [None]]


def read_dpg(path: Path) -> list[Prompt]:
  """Read the folder of text files or the table of questions."""
  if path.is_dir():
    return [Prompt(_text(read_text(file), file), file.stem) for file in _text_files(path)]
  table = read_table(path) if path.suffix.lower() == ".csv" else None
  if table is None or not {"item_id", "text"} <= set(table.columns):
    raise UserError(f"{path}: expected the folder of prompts or dpg_bench.csv with item_id and text")
  texts: dict[str, str] = {}  # The table has several questions per item, one per row.
  for row in check_rows(table).rows:
    name, text = (_text(row.values.get(column), f"{row.where}: {column}") for column in ("item_id", "text"))
    if texts.setdefault(name, text) != text:
      raise UserError(f"{row.where}: the item {name} has another text here than above")
  return [Prompt(text, name) for name, text in texts.items()]


def read_t2i_compbench(path: Path) -> list[Prompt]:
  """Read the text file of a category."""
  return [
      Prompt(_text(line.split("\t")[0], f"{path}:{number}")) for number, line in enumerate(_lines(path), 1)]


def read_rewritten(path: Path) -> Mapping[tuple[str, str], str]:
  """Return NOVA's rewritten prompts by prompt and VBench folder ("" for other benchmarks)."""
  longer = {}
  for number, values in enumerate(_json_list(path), 1):
    where = f"{path}, entry {number}"
    tag = values.get("tag")
    key = _text(values.get("prompt"), where), _known_dimension(tag, where) if tag else ""
    longer[key] = _text(values.get("dense_prompt"), where)
  return longer


def _known_dimension(name: Any, where: Any) -> str:
  if not isinstance(name, str) or name not in VBENCH_FOLDERS:
    raise UserError(f"{where}: {name!r} is no dimension of VBench; known: {', '.join(VBENCH_FOLDERS)}")
  return VBENCH_FOLDERS[name]


def _vbench2_dimension(name: Any, where: Any) -> str:
  if name not in VBENCH2_DIMENSIONS:
    raise UserError(f"{where}: {name!r} is no dimension of VBench-2.0; known: {', '.join(VBENCH2_DIMENSIONS)}")
  return name


def _json_list(path: Path) -> Sequence[Mapping[str, Any]]:
  values = read_json_value(path)
  if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
    raise UserError(f"{path}: expected a JSON list of objects")
  return values


def _text_files(folder: Path) -> list[Path]:
  """Return the text files of a folder, without hidden ones such as metadata of macOS."""
  return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".txt" and not path.name.startswith("."))


def _lines(path: Path) -> list[str]:
  """Return the lines of a file without blank ones at the end.

  Raises:
    UserError: a blank line is followed by others; it would be a prompt without words.
  """
  lines = read_lines(path)
  while lines and not lines[-1].strip():
    lines.pop()
  for number, line in enumerate(lines, 1):
    if not line.strip():
      raise UserError(f"{path}:{number} is blank; remove the line")
  return lines


def _text(value: Any, where: Any) -> str:
  if not isinstance(value, str) or is_blank(value):
    raise UserError(f"{where}: expected a prompt, got {value!r}")
  return value
