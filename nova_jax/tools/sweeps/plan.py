"""Defines sweeps: points in order, each of which sets some fields.

A field is an argument of the pipeline (`guidance_scale`), `weights` or `step` of the checkpoint, a field of the
training config (`config.model.mixer_rank`), or the paradigm of a model (`paradigm`). A point with training fields or a
paradigm trains a model with the sweep's config, which points that differ only in sampling share.
Invariant: a point's result depends on its fields and on how it is measured, not on its position in the sweep.
"""

import dataclasses
import hashlib
import importlib.util
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nova_jax import configs
from nova_jax.config import Experiment
from nova_jax.evals.digits.score import TASKS
from nova_jax.pipeline.request import SETTINGS
from nova_jax.tools.baselines.run import PARADIGMS, check_comparable
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean, from_dict, to_dict
from nova_jax.utils.renamed import current_name

Point = Mapping[str, Any]

SAMPLING = tuple(name for name, declared in SETTINGS.items() if declared.scope == "sampling")
LOADING = ("weights", "step")
TRAINING = "config."
PARADIGM = "paradigm"  # Which of `PARADIGMS` learns the task, each guided as suits it best.


@dataclasses.dataclass(frozen=True)
class Plot:
  """A plot of y over x, with a line for each value of a field.

  Attributes:
    x, y: names of fields, or of columns of the results.
    line: field with a line for each of its values; "" for one line.
    log: whether the x-axis is logarithmic.
  """

  x: str
  y: str
  line: str = ""
  log: bool = False


@dataclasses.dataclass(frozen=True)
class Bars:
  """A plot of proportions of clips, with a bar and its 95 % interval for each value of a field.

  Attributes:
    by: field with a bar for each of its values.
    y: names of scores; () for all of the task.
    over: field whose values, such as seeds, share a bar, which shows their mean, and each of them as a dot instead of
      the interval; "" for none.
    panel: field with bars of its own for each of its values, side by side; "" for one panel.
  """

  by: str
  y: Sequence[str] = ()
  over: str = ""
  panel: str = ""


@dataclasses.dataclass(frozen=True)
class Front:
  """A plot of a score over a cost: a dot for each point, and names and 95 % intervals for presets and the defaults.

  Attributes:
    x: column of the results that is to be small, on a logarithmic axis.
    y: name of a score.
  """

  x: str
  y: str


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Points of a sweep, and how each is measured.

  Attributes:
    title: title of the page.
    about: question that the sweep asks, and what its small scale can answer.
    points: points in the order in which they run.
    plots: plots of the results.
    config: file or name of the training config, for points that train.
    task: what is scored, "digits" or "two_digits".
    num_prompts: number of clips to score per point, as in `evals.digits.score.make_clips`.
    captions: kind of captions, "plain" or "free".
    batch_size: number of clips generated at once.
    seed: seed of the generation.
  """

  title: str
  about: str
  points: Sequence[Point]
  plots: Sequence[Plot | Bars | Front] = ()
  config: str = "configs/digits.py"
  task: str = "digits"
  num_prompts: int = 400
  captions: str = "plain"
  batch_size: int = 100
  seed: int = 0


def grid(**axes: Sequence[Any]) -> list[Point]:
  """Return all combinations, with the last axis varying fastest; `a__b` in a name stands for `a.b`."""
  names = [name.replace("__", ".") for name in axes]
  return [dict(zip(names, values, strict=True)) for values in itertools.product(*axes.values())]


def load_sweep(path: str | Path) -> Sweep:
  """Load a sweep from the `get_sweep()` of a Python file, and check all points before any runs.

  Raises:
    UserError: the file has no sweep, or a point sets an unknown field.
  """
  module = _load(Path(path))
  if not hasattr(module, "get_sweep"):
    raise UserError(f"--config: {path} has no get_sweep(); expected a file such as configs/sweeps/guidance.py")
  sweep = module.get_sweep()
  if not sweep.points:
    raise UserError(f"{path}: the sweep has no points")
  if sweep.task not in tuple(TASKS):
    raise UserError(f"{path}: {sweep.task!r} is not a task{did_you_mean(sweep.task, TASKS)}")
  known = {*SAMPLING, *LOADING, PARADIGM}
  for point in sweep.points:
    for name in point:
      if name not in known and not name.startswith(TRAINING):
        raise UserError(f"{path}: {name} is not a field of sampling{did_you_mean(name, known)}; those of training "
                         f"begin with {TRAINING}")
    if trains(point):
      if "step" in point:
        raise UserError(f"{path}: a point that trains its own model can't name the step of a checkpoint")
      experiment = experiment_for_point(sweep, point)
      if PARADIGM in point:
        _check_paradigm(path, sweep, point, experiment)
  fields = {name for point in sweep.points for name in point}
  for plot in sweep.plots:
    apart = ()
    if isinstance(plot, Bars):
      apart = plot.by, plot.over, plot.panel
    elif isinstance(plot, Plot):
      apart = (plot.line,)
    for name in apart:
      if name and name not in fields:
        raise UserError(f"{path}: plots tell lines or bars apart by {name}, which no point sets")
    if not isinstance(plot, Bars):
      continue
    values = [tuple(shown(point.get(name)) for name in apart) for point in sweep.points]
    if len(set(values)) < len(values):
      raise UserError(f"{path}: several points have the same {plot.by}, so bars can't be told apart by it; use Plot")
    for name in plot.y:
      if name not in (scores := TASKS[sweep.task].names):
        raise UserError(f"{path}: bars show shares, and {name!r} is none{did_you_mean(name, scores)}")
  return sweep


def trains(point: Point) -> bool:
  """Return whether a point trains a model of its own."""
  return PARADIGM in point or bool(training(point))


def training(point: Point) -> Point:
  """Return the training fields of a point without their prefix."""
  return {name.removeprefix(TRAINING): value for name, value in point.items() if name.startswith(TRAINING)}


def experiment_for_point(sweep: Sweep, point: Point) -> Experiment:
  """Return the training of a point: the sweep's config with the point's fields.

  Raises:
    UserError: a field is unknown, or a value is invalid.
  """
  values = to_dict(from_dict(Experiment, _load(Path(configs.find(sweep.config))).get_config()))
  for name, value in training(point).items():
    *path, last = name.split(".")
    inner = values
    for key in path:
      inner = inner.get(key) if isinstance(inner, dict) else None
    last = current_name(last, inner or ())
    if not isinstance(inner, dict) or last not in inner:
      known = inner if isinstance(inner, dict) else values
      raise UserError(f"{TRAINING}{name} is not a field{did_you_mean(last, known)}")
    inner[last] = value
  return from_dict(Experiment, values)


def digest(*values: Any) -> str:
  """Return a short digest of the values."""
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def label(point: Point) -> str:
  """Return a point as text."""
  return ", ".join(f"{name}={shown(value)}" for name, value in point.items()) or "defaults"


def shown(value: Any) -> str:
  """Return a value as tables show it; stages are shown by name."""
  if isinstance(value, Iterable) and not isinstance(value, str):
    return "+".join(str(part.get("name", part)) if isinstance(part, Mapping) else str(part) for part in value)
  return str(value)


def _check_paradigm(path: str | Path, sweep: Sweep, point: Point, experiment: Experiment) -> None:
  if point[PARADIGM] not in PARADIGMS:
    raise UserError(f"{path}: {PARADIGM}={point[PARADIGM]!r} is not compared{did_you_mean(point[PARADIGM], PARADIGMS)}")
  others = [name for name in point if name != PARADIGM and not name.startswith(TRAINING)]
  if others:
    raise UserError(
        f"{path}: a point with a {PARADIGM} chooses how it generates, so it can't set {', '.join(others)}; set fields "
        f"of training ({TRAINING}…) alone")
  check_comparable(point[PARADIGM], experiment, sweep.task)


def _load(path: Path):
  if not path.is_file():
    raise UserError(f"--config: there is no file {path}")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  if spec is None:
    raise UserError(f"--config: {path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
