"""Scores of generated clips while training: functions of the weights, of which the best checkpoint may be told."""

import dataclasses
import json
import sys
import types

import numpy as np
import pytest
from helpers import SMALL_DIGITS
from PIL import Image
from train import toy_run

from nova_jax.autoencoders import make_autoencoder
from nova_jax.checkpoints.store import find, finished_steps
from nova_jax.config import (
  DataConfig,
  EvalConfig,
  Experiment,
  MeshConfig,
  OptimizerConfig,
  SampleConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.evals.digits.one_digit import SCORES as DIGIT_SCORES
from nova_jax.train.callbacks import Callback, scores
from nova_jax.train.callbacks.evaluation import EarlyStopping
from nova_jax.train.callbacks.samples import read_shown
from nova_jax.train.check import check
from nova_jax.train.metrics import TIMINGS
from nova_jax.train.nova import train_nova

MODEL = SMALL_DIGITS


class Mean:
  """Features that need no network: the mean of each frame, and of its halves."""

  dim = 3

  def __call__(self, clips):
    frames = np.asarray(clips, np.float64).mean(-1)[0]
    return np.stack([frames.mean((1, 2)), frames[:, :8].mean((1, 2)), frames[:, :, :8].mean((1, 2))], 1)


def brightness(pipe, trainer):
  clips = pipe(["the digit one moves left"], seed=0, num_frames=1)
  return {"mean": float(clips.mean()), "step": trainer.step}


@pytest.fixture
def own(monkeypatch):
  """Name a module of a user's."""
  module = types.ModuleType("of_mine")
  module.brightness, module.features = brightness, lambda weights: Mean()
  monkeypatch.setitem(sys.modules, "of_mine", module)


def lines(workdir):
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
  return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


@pytest.mark.slow
def test_scores_and_prompts_of_a_run_are_the_same_after_a_restart(own, tmp_path):
  real = tmp_path / "real"
  real.mkdir()
  rng = np.random.default_rng(0)
  for i in range(4):
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(real / f"{i}.png")
  prompts = tmp_path / "prompts.txt"
  prompts.write_text("the digit seven moves up\nthe digit two moves left\n", encoding="utf-8")
  experiment = Experiment(
      model=MODEL, data=DataConfig(num_records=40, num_frames=2),
      train=TrainConfig(
          steps=4, stages=(StageConfig("video", 1.0, 4, 2),), loss_repeat=1, log_every=2, sample_every=4, save_every=2,
          keep=4),
      eval=EvalConfig(
          scores=("digits", "frechet", "of_mine:brightness"), score_every=2, num_clips=8, real=str(real),
          features="of_mine:features", features_weights="none", prompts=str(prompts),
          best_metric="eval/digits/retrieval@1"),
      optimizer=OptimizerConfig(learning_rate=1e-2), mesh=MeshConfig(data=2, fsdp=2, tensor=-1),
      sample=SampleConfig(2, 2, 1.0))
  train_nova(experiment, tmp_path / "whole")
  rows = lines(tmp_path / "whole")
  expected = {f"eval/digits/{name}" for name in DIGIT_SCORES} | {
      "eval/frechet/distance", "eval/brightness/mean", "eval/brightness/step"}
  assert [row["step"] for row in rows] == [2, 4]
  assert all({name for name in row if name.startswith("eval/")} == expected for row in rows)
  assert rows[0]["eval/frechet/distance"] != rows[1]["eval/frechet/distance"]
  best = max(rows, key=lambda row: (row["eval/digits/retrieval@1"], -row["step"]))
  assert find(tmp_path / "whole/checkpoints", step="best").name == str(best["step"])
  for name in ("step", "prompts"):
    assert (tmp_path / f"whole/samples/{name}_000004.png").stat().st_size > 1000

  half = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=2))
  train_nova(half, tmp_path / "continued")
  train_nova(experiment, tmp_path / "continued")
  assert lines(tmp_path / "continued") == rows


class Told(Callback):
  """Evaluates as it is told."""

  def __init__(self, name, values):
    self._name, self._values = name, values

  def evaluate(self, trainer):
    return {self._name: self._values[trainer.step]} if trainer.step in self._values else None


@pytest.mark.parametrize("name, best_is, best", [
    ("eval/digits/digit", "auto", "8"), ("eval/mine/score", "highest", "8"), ("eval/mine/score", "auto", "4"),
    ("eval/digits/digit", "lowest", "4")])
def test_the_best_checkpoint_has_the_highest_score_where_higher_is_better(tmp_path, capsys, name, best_is, best):
  cfg = EvalConfig(score_every=2, scores=("digits",), best_metric=name, best_is=best_is, patience=3)
  experiment = toy_run.make_experiment(steps=20, stages=(StageConfig("video", 1.0, 4, 4),), save_every=2, keep=1)
  values = {2: 0.5, 4: 0.25, 6: 0.5, 8: 1.0, 10: 0.75, 12: 0.75, 14: 0.5, 16: 0.5}
  experiment = dataclasses.replace(experiment, eval=cfg)
  toy_run.train(experiment, tmp_path, Told(name, values), EarlyStopping(3))
  folder = tmp_path / "checkpoints"
  last = 14 if best == "8" else 10
  assert f"stopped by eval.patience=3 ({name} has been {values[int(best)]:.4f} at best) after step {last}" in (
      capsys.readouterr().out)
  assert find(folder, step="best").name == best and finished_steps(folder) == [int(best), last]


@pytest.mark.parametrize("fields, message", [
    ({"score_every": 5}, "eval.score_every: there are no scores to compute"),
    ({"scores": ("digit",)}, "eval.scores: 'digit' is neither known nor MODULE:FUNCTION; did you mean 'digits'"),
    ({"scores": ("os:nothing",)}, "eval.scores: os:nothing: module 'os' has no attribute"),
    ({"scores": ("frechet",)}, "eval.scores: frechet needs real clips"),
    ({"best_is": "best"}, "eval.best_is: expected auto, lowest or highest"),
    ({"scores": ("frechet",), "score_every": 5, "real": "nowhere", "features_weights": "w"},
     "eval.real: there is no folder nowhere"),
    ({"scores": ("digits", "digits")}, "eval.scores: expected another name for each"),
    ({"scores": ("digits",), "score_every": 5, "patience": 3}, "eval.patience: nothing computes eval.best_metric"),
    ({"patience": 3}, "eval.patience: nothing computes eval.best_metric=eval/ema_loss"),
    ({"scores": ("digits",), "score_every": 5, "best_metric": "eval/digits/digt"}, "'eval/digits/digt' is not"),
    ({"scores": ("digits",), "best_metric": "eval/digits/digit", "every": 5}, "'eval/digits/digit' is not")])
def test_scores_that_make_no_sense_are_refused(fields, message):
  experiment = dataclasses.replace(toy_run.make_experiment(), eval=EvalConfig(**fields))
  with pytest.raises(ValueError, match=message):
    check(experiment, toy_run.one_device(), make_autoencoder("pixels"))


def test_the_score_of_two_digits_needs_long_clips_in_the_last_stage():
  model = dataclasses.replace(MODEL, latent_size=(32, 32))
  experiment = Experiment(
      model=model, data=DataConfig(name="two_digits", canvas=32, num_frames=8),
      train=TrainConfig(stages=(StageConfig("image", 0.5, 4, 1), StageConfig("video", 0.5, 4, 8))),
      eval=EvalConfig(scores=("two_digits",), score_every=5, best_metric="eval/two_digits/digits"))
  check(experiment, toy_run.one_device(), make_autoencoder("pixels"))
  pictures = dataclasses.replace(experiment, train=TrainConfig(stages=(StageConfig("image", 1.0, 4, 1),)))
  with pytest.raises(ValueError, match="two_digits needs clips of 8 frames in the last stage; 'image' has 1"):
    check(pictures, toy_run.one_device(), make_autoencoder("pixels"))


def test_two_digits_have_no_score_before_they_cross():
  pipe = types.SimpleNamespace(autoencoder=make_autoencoder("pixels"))
  trainer = types.SimpleNamespace(stage=types.SimpleNamespace(cfg=StageConfig("image", 0.5, 4, 1)))
  assert scores.digits(pipe, trainer, task="two_digits") == {}


def test_the_score_of_digits_needs_digits():
  experiment = dataclasses.replace(
      toy_run.make_experiment(), data=DataConfig(name="caches"), eval=EvalConfig(scores=("digits",)))
  with pytest.raises(ValueError, match="the score of digits needs captioned moving digits"):
    check(experiment, toy_run.one_device(), make_autoencoder("pixels"))


def test_a_file_of_prompts_says_what_to_show_and_no_more(tmp_path):
  path = tmp_path / "prompts.jsonl"
  experiment = dataclasses.replace(toy_run.make_experiment(), eval=EvalConfig(prompts=str(path)))
  path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n', encoding="utf-8")
  assert read_shown(experiment) == [{"prompt": "one"}, {"prompt": "two"}]
  path.write_text('{"prompt": "one", "num_frames": 3}\n', encoding="utf-8")
  with pytest.raises(ValueError, match="prompts.jsonl:1: expected a prompt alone, got num_frames, prompt"):
    read_shown(experiment)
