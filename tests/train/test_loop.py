import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from train import toy_run

from nova_jax.checkpoints.store import find, latest_step, open_arrays
from nova_jax.config import OptimizerConfig, StageConfig, TrainConfig
from nova_jax.train.callbacks import Callback
from nova_jax.train.callbacks.samples import SampleGrids
from nova_jax.train.metrics import TIMINGS, MetricLog
from nova_jax.train.stages import plan_stages
from nova_jax.train.workdir.claim import claim

ROOT = Path(__file__).resolve().parents[2]


def lines(workdir):
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
  return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


def assert_same_run(a, b, num_steps=40):
  assert latest_step(a / "checkpoints") == latest_step(b / "checkpoints") == num_steps
  stored = [open_arrays(find(folder / "checkpoints")) for folder in (a, b)]
  assert stored[0].keys() == stored[1].keys()
  for name in stored[0]:
    np.testing.assert_array_equal(*(arrays[name].read() for arrays in stored), err_msg=name)
  assert lines(a) == lines(b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp("whole")
  toy_run.train(toy_run.make_experiment(), workdir)
  return workdir


def test_stages_share_the_steps():
  stages = plan_stages(TrainConfig(steps=10, stages=(StageConfig("a", 0.25), StageConfig("b", 0.75))))
  assert [(s.cfg.name, s.first, s.last) for s in stages] == [("a", 0, 2), ("b", 2, 10)]


def test_the_time_that_is_left_is_reckoned_by_frames(monkeypatch, capsys):
  """A step of clips takes longer than one of pictures, in which the first stage ends."""
  clock = iter(range(100))
  monkeypatch.setattr("time.monotonic", lambda: next(clock))
  stages = plan_stages(TrainConfig(steps=10, stages=(StageConfig("a", 0.4, 8, 1), StageConfig("b", 0.6, 4, 8))))
  trackers = types.SimpleNamespace(line=lambda line: None)
  log = MetricLog(trackers, log_every=1, stages=stages, sums={}, peak=1.0)
  for step in (1, 2):
    log.add(step, "a", {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 1.0})
  assert capsys.readouterr().out.splitlines()[-1].endswith(f", 0:00:{2 + 6 * 4} left")


@pytest.mark.parametrize("cfg, message", [
    (TrainConfig(steps=0), "train.steps"), (TrainConfig(stages=()), "train.stages"),
    (TrainConfig(accumulation=3), "train.accumulation"),
    (TrainConfig(stages=(StageConfig(num_frames=0),)), "num_frames")])
def test_a_run_that_makes_no_sense_is_refused(cfg, message):
  with pytest.raises(ValueError, match=message):
    plan_stages(cfg)


def test_workdir_of_a_run(whole):
  names = {path.name for path in whole.iterdir()}
  assert names == {".lock", "config.json", "identity.json", "run.json", "checkpoints", "metrics.jsonl", "tensorboard"}
  rows = lines(whole)
  assert [row["step"] for row in rows] == list(range(4, 41, 4))
  assert {row["stage"] for row in rows} == {"image", "video"}
  assert set(rows[0]) == {"step", "stage", "loss", "grad_norm", "learning_rate"}
  last = json.loads((whole / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
  assert last["videos_per_sec"] > 0 and last["model_flops_per_sec"] > 0 and last["data_wait_sec"] >= 0
  assert latest_step(whole / "checkpoints") == 40


def test_sigterm_saves_and_the_same_command_continues_bit_for_bit(whole, tmp_path, capsys):
  for stop in (6, 20):
    toy_run.train(toy_run.make_experiment(), tmp_path, toy_run.Do(stop, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert f"stopped by SIGTERM after step {stop + 1}; the same command continues" in capsys.readouterr().out
    assert latest_step(tmp_path / "checkpoints") == stop + 1
  toy_run.train(toy_run.make_experiment(), tmp_path)
  assert_same_run(whole, tmp_path)


def test_nan_stops_the_run_and_spares_the_checkpoints(tmp_path):
  with pytest.raises(FloatingPointError, match=r"step 9: .* is (nan|inf); the last good checkpoint is .*checkpoints/6"):
    toy_run.train(toy_run.make_experiment(save_every=3), tmp_path, task=toy_run.ToyTask(fails_at=8))
  assert latest_step(tmp_path / "checkpoints") == 6


def test_another_experiment_is_refused(whole):
  before = (whole / "config.json").read_text(encoding="utf-8")
  with pytest.raises(ValueError, match=r"different experiment: train.ema_decay was 0.9, now 0.5; use another"):
    toy_run.train(toy_run.make_experiment(ema_decay=0.5), whole)
  assert (whole / "config.json").read_text(encoding="utf-8") == before
  toy_run.train(toy_run.make_experiment(log_every=7), whole)
  toy_run.train(toy_run.make_experiment(), whole)


class Grids(SampleGrids):
  """Notes what would be written."""

  def __init__(self, every):
    super().__init__(every, None, None, None)
    self.written = []

  def write(self, trainer, path):
    self.written.append((path.name, trainer.stage.cfg.num_frames))


def test_samples_are_written_on_time(tmp_path):
  grids = Grids(16)
  toy_run.train(toy_run.make_experiment(), tmp_path, grids)
  assert grids.written == [("step_000016.png", 1), ("step_000032.png", 4), ("step_000040.png", 4)]


class Tracker(Callback):
  """Evaluates after each step, stops after the seventh, and notes the order of all."""

  def __init__(self, stops):
    self.stops, self.calls, self.lines = stops, [], {}

  def evaluate(self, trainer):
    self.calls.append(("evaluate", trainer.step))
    assert isinstance(trainer.average(), toy_run.Toy)
    return {"held_out": float(trainer.step)}

  def should_stop(self, trainer):
    return "a tracker" if self.stops and trainer.step == 7 else None

  def save(self, trainer):
    self.calls.append(("save", trainer.step))

  def before_step(self, trainer):
    self.calls.append(("before", trainer.step))

  def after_step(self, trainer, metrics):
    self.calls.append(("after", trainer.step))

  def log(self, trainer, step, values):
    self.lines[step] = values

  def close(self):
    self.calls.append("close")


def test_callbacks_evaluate_save_step_and_log_in_this_order(tmp_path, capsys):
  experiment, tracker = toy_run.make_experiment(steps=12, log_every=2), Tracker(stops=True)
  assert not toy_run.make_trainer(experiment, tmp_path, tracker).run()
  assert "stopped by a tracker after step 7; the same command continues" in capsys.readouterr().out
  assert tracker.calls[:6] == [
      ("save", 0), ("before", 0), ("after", 1), ("evaluate", 1), ("save", 1), ("before", 1)]
  assert tracker.calls[-4:] == [("after", 7), ("evaluate", 7), ("save", 7), "close"]
  assert latest_step(tmp_path / "checkpoints") == 7
  again = Tracker(stops=False)
  assert toy_run.make_trainer(experiment, tmp_path, again).run()
  assert again.calls[:3] == [("save", 7), ("before", 7), ("after", 8)] and again.calls[-2] == ("save", 12)
  assert len([call for call in again.calls if call[0] == "evaluate"]) == 5
  # Means since the line before; the stage of clips begins after step 5.
  held_out = {line["step"]: line["held_out"] for line in lines(tmp_path)}
  assert held_out == {2: 1.5, 4: 3.5, 6: 6.0, 8: 7.5, 10: 9.5, 12: 11.5}
  seen = tracker.lines | again.lines
  assert {step: values["held_out"] for step, values in seen.items()} == held_out


def test_tasks_start_from_weights_of_their_own(tmp_path):
  """Without a learning rate they stay what they were."""
  experiment = toy_run.make_experiment(steps=1)
  experiment = dataclasses.replace(experiment, optimizer=OptimizerConfig(learning_rate=0.0, weight_decay=0.0))
  weights = jax.tree.map(lambda x: x + 1, nnx.state(toy_run.Toy(rngs=nnx.Rngs(5))))
  task = toy_run.ToyTask()
  task.initial_weights = lambda: weights
  trainer = toy_run.train(experiment, tmp_path, task=task)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6)  # The average is rounded.
  jax.tree.map(close, nnx.state(trainer.average()), weights)


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_no_bit(tmp_path_factory):
  """Six kills, spread over start-up, compilation, steps and saves; each continues where the one before was killed.

  Losses of held-out records are among the lines that stay the same.
  """
  base = tmp_path_factory.mktemp("kill")
  env = os.environ | {
      "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT),
      "JAX_COMPILATION_CACHE_DIR": str(base / "cache"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}

  def start(workdir):
    program = Path(__file__).with_name("toy_process.py")
    command = [sys.executable, str(program), f"--workdir={workdir}", "--set=steps=400", "--set=save_every=10",
               "--evaluate=20"]
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

  process = start(base / "whole")
  assert process.wait() == 0, process.stderr.read().decode()

  rng, kills, steps = random.Random(0), 0, []
  killed = base / "killed"
  while kills < 6:
    before = newest(killed)
    process = start(killed)
    if kills % 3 == 0:  # Strike while it starts or compiles.
      time.sleep(rng.uniform(2, 5))
    else:  # Wait for one more checkpoint, then strike between steps or in a save.
      while newest(killed) == before and process.poll() is None:
        time.sleep(0.005)
      time.sleep(rng.uniform(0, 0.4))
    process.kill()
    if process.wait() != -signal.SIGKILL:
      break  # It was done before.
    kills += 1
    steps.append(newest(killed))
  print("newest checkpoint after each kill:", steps)
  assert kills >= 5
  process = start(killed)
  assert process.wait() == 0, process.stderr.read().decode()
  assert_same_run(base / "whole", killed, 400)
  assert sum("eval/ema_loss" in line for line in lines(killed)) == 20


def newest(workdir):
  steps = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
  return max(steps, default=0)


def test_a_run_continues_when_fields_were_added_since(tmp_path):
  experiment = toy_run.make_experiment()
  with claim(tmp_path, experiment):
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
  del config["data"]["motion_dropout"], config["train"]["stages"][0]["sources"]
  (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
  with claim(tmp_path, experiment):
    pass
  (tmp_path / "config.json").write_text(json.dumps(config | {"gone": 1}), encoding="utf-8")
  with pytest.raises(ValueError, match="gone was 1, now None"):
    with claim(tmp_path, experiment):
      pass


def test_two_runs_do_not_share_a_workdir(tmp_path):
  with claim(tmp_path, toy_run.make_experiment()):
    with pytest.raises(ValueError, match="another process is training here"):
      toy_run.train(toy_run.make_experiment(), tmp_path)
