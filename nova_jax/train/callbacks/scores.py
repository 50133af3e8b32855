"""Scores of generated clips while training.

Every time the same prompts and noise are taken, with the averaged weights.
Invariant: a score is a function of the weights and of the stage alone, as a held-out loss is.
"""

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nova_jax.autoencoders import Autoencoder
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.config import EvalConfig, Experiment
from nova_jax.evals.digits import two_digits
from nova_jax.evals.digits.one_digit import DigitClassifier
from nova_jax.evals.digits.score import TASKS, make_clips
from nova_jax.evals.features.extract import NETWORKS, FeatureFunction, compute_features, find, open_features
from nova_jax.evals.features.frechet import FeatureStatistics, frechet_distance
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.prompts import naming
from nova_jax.storage import as_path
from nova_jax.text import TextEncoder
from nova_jax.train.callbacks import Callback
from nova_jax.train.metrics import EVALUATED
from nova_jax.train.trainer import Trainer
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean
from nova_jax.utils.files import check_regular

_BATCH = 40  # Number of clips generated at once; small ones, of digits.
_LARGE_BATCH = 8

Score = Callable[[Pipeline, Trainer], Mapping[str, float]]  # From the model with averaged weights, and the run.


class Scores(Callback):
  """Computes `eval.scores` every `eval.score_every` steps; metrics are named "eval/SCORE/NAME"."""

  def __init__(
      self, cfg: EvalConfig, card: ModelCard, text_encoder: TextEncoder | None, autoencoder: Autoencoder
  ):
    """Plan scores.

    Args:
      cfg: which, and when.
      card: card of the model.
      text_encoder: text encoder of the model; None for one whose records have embeddings or classes.
      autoencoder: autoencoder of the model.
    """
    self._cfg, self._model = cfg, (card, text_encoder, autoencoder)
    self._scores: dict[str, Score] = {}

  def evaluate(self, trainer: Trainer) -> dict[str, float] | None:
    every, step = self._cfg.score_every, trainer.step
    if not every or (step % every and step != trainer.num_steps):
      return None
    if not self._scores:
      self._scores = {_short(name): _find(name) for name in self._cfg.scores}
    card, text_encoder, autoencoder = self._model
    pipe = Pipeline(card, trainer.average(), text_encoder, autoencoder)
    return {
        f"{EVALUATED}{score}/{name}": float(value) for score, function in self._scores.items()
        for name, value in function(pipe, trainer).items()}


def digits(pipe: Pipeline, trainer: Trainer, task: str = "digits") -> dict[str, float]:
  """Return the scores of moving digits; see `nova_jax.evals.digits.one_digit`, and `two_digits` there for that task.

  Two digits have none in a stage of clips in which they don't cross, such as one of pictures.
  """
  assert pipe.autoencoder is not None
  num_frames = pipe.autoencoder.num_frames(trainer.stage.cfg.num_frames)
  if task == "two_digits" and num_frames < two_digits.NUM_FRAMES:
    return {}
  made = make_clips(
      lambda prompts, seeds: pipe(prompts, seed=seeds, num_frames=num_frames), canvas=trainer.cfg.data.canvas,
      num_frames=num_frames, num_prompts=trainer.cfg.eval.num_clips, batch_size=_BATCH, task=task)
  return {name: share.value for name, share in made.scores(DigitClassifier()).items()}


class Frechet:
  """Fréchet distance between the clips of a folder and clips that are generated for captions of the data."""

  def __init__(self):
    self._features: FeatureFunction | None = None
    self._real: FeatureStatistics | None = None

  def __call__(self, pipe: Pipeline, trainer: Trainer) -> dict[str, float]:
    cfg, stage = trainer.cfg.eval, trainer.stage.cfg
    if self._features is None or self._real is None:
      with naming("eval.features"):
        self._features = open_features(cfg.features, cfg.features_weights)
      with naming("eval.real"):
        self._real = compute_features(find(as_path(cfg.real)), self._features, "real").statistics
    assert pipe.autoencoder is not None
    examples, made = trainer.data.examples(stage, cfg.num_clips), FeatureStatistics(self._features.dim)
    count = len(examples.captions)
    for start in range(0, count, _LARGE_BATCH):
      rows = range(start, min(start + _LARGE_BATCH, count))
      condition: dict[str, Any] = {name: [values[row] for row in rows] for name, values in examples.condition.items()}
      clips = pipe(**condition, num_frames=pipe.autoencoder.num_frames(stage.num_frames), seed=list(rows))
      for clip in np.asarray(clips):
        made.add(self._features(np.broadcast_to(clip, (*clip.shape[:-1], 3))[None]))
    return {"distance": frechet_distance(self._real, made)}


SCORES: Mapping[str, Callable[[], Score]] = {
    "digits": lambda: digits, "two_digits": lambda: functools.partial(digits, task="two_digits"), "frechet": Frechet}
_DATA = {"digits": "moving_digits", "two_digits": "two_digits"}  # What a score of digits is for, by the score's name.


def check_scores(experiment: Experiment) -> None:
  """Refuse scores that aren't known, or that the data doesn't allow."""
  cfg = experiment.eval
  if cfg.best_is not in ("auto", "lowest", "highest"):
    raise UserError(f"eval.best_is: expected auto, lowest or highest, got {cfg.best_is!r}")
  if cfg.score_every and not cfg.scores:
    raise UserError("eval.score_every: there are no scores to compute; name some in eval.scores")
  for name in cfg.scores:
    _find(name)
  if len({*map(_short, cfg.scores)}) < len(cfg.scores):
    raise UserError(f"eval.scores: expected another name for each, got {', '.join(cfg.scores)}")
  for name, data in _DATA.items():
    if name in cfg.scores and (experiment.data.name != data or not experiment.model.text_dim):
      raise UserError(f"eval.scores: the score of digits needs captioned moving digits; for {name}, data.name={data}")
  if "frechet" in cfg.scores and not (cfg.real and cfg.features_weights):
    raise UserError(
        "eval.scores: frechet needs real clips (eval.real) and the weights of its network (eval.features_weights)")
  if "frechet" in cfg.scores and cfg.score_every:
    with naming("eval.real"):
      find(as_path(cfg.real))
    if cfg.features in NETWORKS:
      with naming("eval.features_weights"):
        check_regular(cfg.features_weights)


def score_names(experiment: Experiment) -> Iterator[str]:
  """Yield the metrics of scores in the last stage; those of your own functions as a pattern."""
  cfg, stages = experiment.eval, experiment.train.stages
  known = {name: TASKS[name].names if stages[-1].num_frames > 1 else TASKS[name].names[:1] for name in TASKS} | {
      "frechet": ("distance",)}
  for score in cfg.scores if cfg.score_every else ():
    for name in known.get(score, ("*",)):
      yield f"{EVALUATED}{_short(score)}/{name}"


def _short(name: str) -> str:
  return name.rpartition(":")[2]


def _find(name: str) -> Score:
  if name in SCORES:
    return SCORES[name]()
  module, colon, function = name.partition(":")
  if not colon:
    raise UserError(f"eval.scores: {name!r} is neither known nor MODULE:FUNCTION{did_you_mean(name, SCORES)}")
  try:
    return getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError) as error:
    raise UserError(f"eval.scores: {name}: {error}") from None
