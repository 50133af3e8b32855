"""The best checkpoint: kept, found, and what stops a run that has no better one."""

import dataclasses
import sys
import types

import commands
import pytest
from absl import flags
from pipeline.test_pipeline import CARD
from train import toy_run

from nova_jax.checkpoints.model_card import write_card
from nova_jax.checkpoints.store import find, finished_steps
from nova_jax.cli.checkpoint_flags import define_step, step
from nova_jax.config import EvalConfig, StageConfig
from nova_jax.evals.benchmarks import sampling
from nova_jax.evals.benchmarks.settings import Settings
from nova_jax.train.callbacks import Callback
from nova_jax.train.callbacks.evaluation import EarlyStopping
from nova_jax.train.check import check
from nova_jax.utils.errors import UserError

STAGES = (StageConfig("video", 1.0, 4, 4),)
VALUES = {2: 1.0, 4: 0.5, 6: 0.7, 8: 0.5, 10: 0.6, 12: 0.4, 14: 0.8, 16: float("nan"), 18: 0.9, 20: 0.9}


class Score(Callback):
  """Evaluates as it is told."""

  def __init__(self, values=VALUES):
    self._values = values

  def evaluate(self, trainer):
    return {"eval/ema_loss": self._values[trainer.step]} if trainer.step in self._values else None


def train(workdir, *callbacks, values=VALUES, stages=STAGES, **cfg):
  experiment = toy_run.make_experiment(steps=20, stages=stages, save_every=2, keep=2)
  experiment = dataclasses.replace(experiment, eval=EvalConfig(every=2, **cfg))
  return toy_run.train(experiment, workdir, Score(values), EarlyStopping(experiment.eval.patience), *callbacks)


def test_the_best_checkpoints_are_kept_and_found(tmp_path):
  train(tmp_path / "run", keep_best=2)
  checkpoints = tmp_path / "run" / "checkpoints"
  assert finished_steps(checkpoints) == [4, 12, 18, 20]  # Of equal ones the first.
  assert find(checkpoints, step="best").name == "12" and find(checkpoints).name == "20"


def test_without_evaluations_nothing_is_best(tmp_path):
  train(tmp_path / "run", values={})
  checkpoints = tmp_path / "run" / "checkpoints"
  assert finished_steps(checkpoints) == [18, 20]
  with pytest.raises(ValueError, match="has no best checkpoint"):
    find(checkpoints, step="best")


def test_only_the_last_stage_has_a_best_checkpoint(tmp_path):
  stages = (StageConfig("image", 0.5, 4, 1), StageConfig("video", 0.5, 4, 4))
  train(tmp_path / "run", values=VALUES | {4: 0.1}, stages=stages)
  assert find(tmp_path / "run" / "checkpoints", step="best").name == "12"


def test_a_run_stops_when_its_best_value_is_old(tmp_path, capsys):
  values = {2: 1.0, 4: 0.5, 6: 0.7, 8: 0.5, 10: 0.6, 12: 0.6, 14: 0.6}
  train(tmp_path / "run", values=values, patience=3)
  checkpoints = tmp_path / "run" / "checkpoints"
  assert "stopped by eval.patience=3 (eval/ema_loss has been 0.5000 at best) after step 10" in capsys.readouterr().out
  assert finished_steps(checkpoints) == [4, 8, 10]
  # The same command goes on to the next evaluation; the count is kept.
  train(tmp_path / "run", values=values, patience=3)
  assert finished_steps(checkpoints)[-1] == 12
  assert find(checkpoints, step="best").name == "4"
  # More patience is no other experiment.
  train(tmp_path / "run", values=values, patience=0)
  assert finished_steps(checkpoints) == [4, 18, 20]


def test_a_metric_that_is_not_computed_is_refused():
  experiment = dataclasses.replace(toy_run.make_experiment(), eval=EvalConfig(every=1, best_metric="eval/ema_los"))
  with pytest.raises(ValueError, match="eval.best_metric: 'eval/ema_los' is not .*did you mean 'eval/ema_loss'"):
    check(experiment, toy_run.one_device(), None)


def test_samples_for_a_scorer_are_those_of_the_best_checkpoint(tmp_path):
  """The first shard finds it; the others go on with its step, even if there is a better one by then."""
  train(tmp_path)
  write_card(tmp_path, CARD)
  assert sampling._pin(Settings(str(tmp_path), step="best"), None).step == 12
  assert sampling._pin(Settings(str(tmp_path)), None).step == 20
  assert sampling._pin(Settings(str(tmp_path), step="best"), {"settings": {"step": 4}}).step == 4


@pytest.mark.parametrize("name, args", [
    ("evaluate", ("--output=out",)), ("sample", ("--output=out", "--prompt=one")), ("demo", ("--output=out",))])
def test_commands_load_the_checkpoint_that_is_named(name, args, tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
  monkeypatch.setitem(sys.modules, "nova_jax.tools.demo.page", types.SimpleNamespace(serve=None))
  asked = {}

  def load(checkpoint, **options):
    asked.update(options)
    raise UserError("seen")

  monkeypatch.setattr(f"nova_jax.cli.{name}.load_pipeline", load)
  args = [arg.replace("=out", f"={tmp_path / 'out'}") for arg in args]
  done = commands.run(name, f"--checkpoint={tmp_path}", "--step=best", "--weights=ema_0.999", *args)
  assert done.returncode == 2 and "seen" in done.stderr, done
  assert asked["step"] == "best" and asked["weights"] == "ema_0.999"


@pytest.mark.parametrize("given, expected", [([], None), (["--step=12"], 12), (["--step=best"], "best")])
def test_the_flag_names_a_checkpoint(given, expected):
  values = flags.FlagValues()
  define_step(values)
  values(["program", *given])
  assert step(values) == expected


def test_a_step_that_is_no_number_is_refused():
  values = flags.FlagValues()
  define_step(values)
  values(["program", "--step=newest"])
  with pytest.raises(ValueError, match="--step: expected a number or best, got 'newest'"):
    step(values)
