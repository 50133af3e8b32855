"""Totals of the results of official scorers.

VBench   each of 16 dimensions x becomes (x − min) / (max − min) by published bounds; quality and semantic score are
         means over their dimensions, where the dynamic degree has half weight; total = (4 · quality + semantic) / 5.
GenEval  the mean over tasks of the fraction of correct pictures.
Invariant: a total needs all dimensions or tasks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nova_jax.utils.errors import UserError
from nova_jax.utils.files import read_json
from nova_jax.utils.text_files import read_json_lines


class _Dimension(NamedTuple):
  low: float
  high: float
  weight: float = 1.0


_QUALITY = {
    "subject_consistency": _Dimension(0.1462, 1), "background_consistency": _Dimension(0.2615, 1),
    "temporal_flickering": _Dimension(0.6293, 1), "motion_smoothness": _Dimension(0.706, 0.9975),
    "dynamic_degree": _Dimension(0, 1, 0.5), "aesthetic_quality": _Dimension(0, 1), "imaging_quality": _Dimension(0, 1)}
_SEMANTIC = {
    "object_class": _Dimension(0, 1), "multiple_objects": _Dimension(0, 1), "human_action": _Dimension(0, 1),
    "color": _Dimension(0, 1), "spatial_relationship": _Dimension(0, 1), "scene": _Dimension(0, 0.8222),
    "appearance_style": _Dimension(0.0009, 0.2855), "temporal_style": _Dimension(0, 0.364),
    "overall_consistency": _Dimension(0, 0.364)}
VBENCH_DIMENSIONS = (*_QUALITY, *_SEMANTIC)
_QUALITY_WEIGHT, _SEMANTIC_WEIGHT = 4, 1
GENEVAL_TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def vbench_totals(scores: Mapping[str, float]) -> dict[str, float]:
  """Return quality, semantic and total score of VBench's dimensions, all in [0, 1].

  Raises:
    UserError: a dimension is missing or unknown, or its score is not in [0, 1].
  """
  missing = [name for name in VBENCH_DIMENSIONS if name not in scores]
  unknown = [name for name in scores if name not in VBENCH_DIMENSIONS]
  if missing or unknown:
    problems = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (unknown, "unknown")) if names]
    raise UserError(f"VBench: a total is of all 16 dimensions; {'; '.join(problems)}")
  wrong = [f"{name} {value}" for name, value in scores.items() if not 0 <= value <= 1]
  if wrong:
    raise UserError(f"VBench: expected scores from 0 to 1, got {', '.join(wrong)}")
  quality, semantic = (_mean(scores, dimensions) for dimensions in (_QUALITY, _SEMANTIC))
  total = (_QUALITY_WEIGHT * quality + _SEMANTIC_WEIGHT * semantic) / (_QUALITY_WEIGHT + _SEMANTIC_WEIGHT)
  return {"quality": quality, "semantic": semantic, "total": total}


def read_vbench(paths: Sequence[Path]) -> dict[str, float]:
  """Collect dimensions from VBench's `…_eval_results.json`: {dimension: [score, details of videos], …}.

  Args:
    paths: files, or folders of files; each dimension is in one of them.

  Raises:
    UserError: there are no such files, one is malformed, or a dimension occurs twice.
  """
  scores, origin = {}, {}
  found = [sorted(path.glob("**/*_eval_results.json")) if path.is_dir() else [path] for path in paths]
  files = [file for group in found for file in group]
  if not files:
    raise UserError(f"{paths[0]} has no …_eval_results.json, as VBench writes them")
  for file in files:
    for name, value in read_json(file).items():
      value = value[0] if isinstance(value, list) and value else value
      if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e9:  # NaN is none.
        raise UserError(f"{file}: {name} should be a score, or a list that begins with one, got {str(value)[:40]}")
      if name in scores:
        raise UserError(f"{name} stands in {origin[name]} and in {file}; name the files of one evaluation")
      scores[name], origin[name] = float(value), file
  return scores


def read_geneval(path: Path) -> dict[str, float]:
  """Aggregate GenEval's results, which have a JSON object per picture: {"tag", "correct", …}.

  Returns:
    Fraction of correct pictures by task, and `overall`.

  Raises:
    UserError: the file is malformed, or lacks a task.
  """
  correct: dict[str, list[bool]] = {}
  for number, values in read_json_lines(path):
    if not isinstance(values, dict) or not {"tag", "correct"} <= values.keys():
      raise UserError(f"{path}:{number}: expected an object with tag and correct, got {str(values)[:60]!r}")
    tag, right = str(values["tag"]), values["correct"]
    if not isinstance(right, bool):
      raise UserError(f"{path}:{number}: correct should be true or false, got {right!r}")
    correct.setdefault(tag, []).append(right)
  if set(correct) != set(GENEVAL_TASKS):
    raise UserError(
        f"{path}: the overall score is of the tasks {', '.join(GENEVAL_TASKS)}; got {', '.join(correct) or 'none'}")
  shares = {tag: sum(correct[tag]) / len(correct[tag]) for tag in GENEVAL_TASKS}
  return shares | {"overall": sum(shares.values()) / len(shares)}


def _mean(scores: Mapping[str, float], dimensions: Mapping[str, _Dimension]) -> float:
  """Return the weighted mean of normalised scores, which may exceed 1 as in the official code."""
  total = sum(d.weight * (scores[name] - d.low) / (d.high - d.low) for name, d in dimensions.items())
  return total / sum(d.weight for d in dimensions.values())
