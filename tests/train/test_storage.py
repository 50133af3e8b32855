"""A run whose storage fails or lies: it loses nothing that is on the disk, and says what it can't read or write."""

import dataclasses
import errno
import io
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from train import toy_run

from nova_jax.checkpoints import store
from nova_jax.checkpoints.store import Checkpointer, find, finished_steps, open_arrays
from nova_jax.config import StageConfig
from nova_jax.train.metrics import TIMINGS, MetricLog
from nova_jax.train.stages import Stage
from nova_jax.train.trackers import Trackers
from nova_jax.train.trackers.jsonl import cut_lines
from nova_jax.train.workdir import restart
from nova_jax.utils import terminal
from nova_jax.utils.errors import RunFailed

EXPERIMENT = toy_run.make_experiment(steps=12, save_every=4, log_every=2, keep=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  toy_run.train(EXPERIMENT, workdir)
  return workdir


def rows(workdir):
  lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
  return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]


def test_a_run_goes_back_to_the_checkpoint_before_a_damaged_one_bit_for_bit(whole, tmp_path, capsys):
  run = shutil.copytree(whole, tmp_path / "run")
  file = max((run / "checkpoints/12/state").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
  file.write_bytes(file.read_bytes()[:100])
  toy_run.train(EXPERIMENT, run)
  out = capsys.readouterr().out.splitlines()
  assert out[0].startswith("note: checkpoint 12 is damaged (") and out[0].endswith("; it is kept as 12.damaged")
  assert out[1] == "continuing after step 8"
  assert finished_steps(run / "checkpoints") == [4, 8, 12] and rows(run) == rows(whole)
  expected = open_arrays(find(whole / "checkpoints"))
  for name, array in open_arrays(find(run / "checkpoints")).items():
    np.testing.assert_array_equal(array.read(), expected[name].read(), err_msg=name)


def test_a_run_without_a_whole_checkpoint_does_not_begin_anew(whole, tmp_path):
  run = shutil.copytree(whole, tmp_path / "run")
  for step in (4, 8, 12):
    shutil.rmtree(run / f"checkpoints/{step}/state")
  with pytest.raises(RunFailed, match="no checkpoint in .* is whole"):
    toy_run.train(EXPERIMENT, run)


def test_a_checkpoint_that_leads_to_nan_is_not_called_good(whole, tmp_path):
  run = shutil.copytree(whole, tmp_path / "run")
  shutil.rmtree(run / "checkpoints/12")
  with pytest.raises(FloatingPointError, match=r"step 9: .* nan; this run continued from .*/8, which may be the cause; "
                     "to go back to step 4, remove it"):
    toy_run.train(EXPERIMENT, run, task=toy_run.ToyTask(fails_at=8))


class Screen(io.StringIO):
  """A terminal that knows which checkpoints were finished when each line was written."""

  def __init__(self, checkpoints):
    super().__init__()
    self.checkpoints, self.finished = checkpoints, {}

  def write(self, text):
    self.finished[text.split(":")[0]] = finished_steps(self.checkpoints)
    return super().write(text)


def test_done_is_said_when_the_last_checkpoint_is_on_the_disk(tmp_path, monkeypatch):
  screen = Screen(tmp_path / "checkpoints")
  monkeypatch.setattr(sys, "stdout", screen)
  real = Checkpointer.close
  monkeypatch.setattr(Checkpointer, "close", lambda self: (print("close"), real(self)))
  toy_run.train(toy_run.make_experiment(steps=2, save_every=50), tmp_path)
  assert screen.getvalue().index("close") < screen.getvalue().index("done: 2 steps")
  assert screen.finished["done"] == [2]


class Gone(io.TextIOBase):
  """A terminal that went away."""

  calls = 0

  def write(self, text):
    self.calls += 1
    raise BrokenPipeError(32, "Broken pipe")


def test_a_terminal_that_goes_away_ends_no_training(whole, tmp_path, monkeypatch, capsys):
  gone = Gone()
  monkeypatch.setattr(sys, "stdout", gone)
  toy_run.train(EXPERIMENT, tmp_path)
  monkeypatch.undo()
  assert gone.calls == 1
  assert capsys.readouterr().err == "note: stdout can't be written (Broken pipe); the work goes on without it\n"
  assert finished_steps(tmp_path / "checkpoints") == [4, 8, 12] and rows(tmp_path) == rows(whole)


def test_letters_that_a_locale_lacks_are_escaped(monkeypatch, tmp_path):
  with (tmp_path / "out").open("w", encoding="ascii") as file:
    monkeypatch.setattr(sys, "stdout", file)
    terminal.say("done: caché")
    monkeypatch.undo()
  assert (tmp_path / "out").read_text(encoding="ascii") == "done: cach\\xe9\n"


def make_log(folder, first_step=0):
  trackers = Trackers(folder, ("jsonl", "tensorboard"), first_step, {})
  return MetricLog(trackers, log_every=1, stages=(Stage(StageConfig(), 0, 9),), sums={}, peak=1.0)


def add(log, *steps):
  for step in steps:
    log.add(step, "video", {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 1.0})


def test_lines_wait_for_room_on_the_disk(tmp_path, capsys):
  log = make_log(tmp_path)
  add(log, 1)
  path = tmp_path / "metrics.jsonl"
  path.rename(tmp_path / "away")
  path.mkdir()  # Can't be written, as when a disk is full.
  add(log, 2, 3)
  path.rmdir()
  (tmp_path / "away").rename(path)
  with path.open("a", encoding="utf-8") as file:
    file.write('{"step": 2, "st')  # As far as there was room.
  add(log, 4)
  log.close()
  assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]
  out = capsys.readouterr().out
  assert out.count("note:") == 1 and f"note: {path} can't be written (Is a directory); training goes on" in out


def test_lines_that_never_got_room_are_said_at_the_end(tmp_path):
  log = make_log(tmp_path)
  (tmp_path / "metrics.jsonl").unlink()
  (tmp_path / "metrics.jsonl").mkdir()
  add(log, 1)
  with pytest.raises(OSError, match="its last lines are lost") as error:
    log.close()
  assert error.value.filename == str(tmp_path / "metrics.jsonl")


def test_tensorboard_without_room_ends_no_training(tmp_path, capsys):
  log = make_log(tmp_path)
  _, board = log._trackers._trackers
  board._writer.close()
  board._writer._py_recordio_writer._writer = Path("/dev/full").open("wb")
  add(log, 1, 2)
  log.close()
  assert [row["step"] for row in rows(tmp_path)] == [1, 2]
  note = "note: TensorBoard: No space left on device; training goes on without TensorBoard\n"
  assert capsys.readouterr().out.count(note) == 1


def test_a_line_that_is_no_record_is_lost_alone(tmp_path, capsys):
  path = tmp_path / "metrics.jsonl"
  good = [b'{"step": 1}\n', b'{"step": 2}\n', b'{"step": 3}\n', b'{"step": 4}\n']
  bad = [b"[1]\n", b"null\n", b'{"loss": 1}\n', b'{"step": "2"}\n', b"\xff\xfe\n", b'{"step": 2, \n']
  bad.append(b"[" * 100_000 + b"\n")
  path.write_bytes(good[0] + b"".join(bad) + b"".join(good[1:]) + b'{"step": 3')
  assert cut_lines(path, 3) == len(bad)
  assert path.read_bytes() == b"".join(good[:3])
  path.write_bytes(b"".join(good) + b"7\n")
  make_log(tmp_path, first_step=4).close()
  assert f"note: {path}: dropped 1 line that no training wrote" in capsys.readouterr().out


@pytest.mark.parametrize("lists, count, expected", [
    ([["a"], ["b", "c"]], 2, [["a"], ["b", "c"]]),  # Each process has its own again.
    ([["a"], ["b", "c"]], 1, [["a", "b", "c"]]), ([["a", "b"], ["b", "c"]], 3, [["a"], ["b"], ["c"]]),
    ((), 2, [[], []]), (["a", "b"], 1, [["a", "b"]])])  # As older versions saved it.
def test_processes_go_on_to_count_their_own_damaged_records(monkeypatch, lists, count, expected):
  monkeypatch.setattr(jax, "process_count", lambda: count)
  for process, own in enumerate(expected):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    assert restart.own_damaged(lists) == own


def test_a_warm_up_that_is_longer_than_a_stage_is_said():
  experiment = dataclasses.replace(EXPERIMENT, optimizer=dataclasses.replace(EXPERIMENT.optimizer, warmup_steps=6))
  (line,) = restart.notes(experiment, None)
  assert line.startswith("optimizer.warmup_steps=6 is longer than stage 'image' of 5 steps")
  assert not [*restart.notes(EXPERIMENT, None)]


def fail_saves(monkeypatch, *steps):
  """Let the disk be full when checkpoints of these steps are committed; return the steps that were tried."""
  real, tried = ocp.CheckpointManager.save, []

  def save(self, step, **arguments):
    tried.append(step)
    if step in steps and tried.count(step) <= steps.count(step):
      raise OSError(errno.ENOSPC, "No space left on device")
    return real(self, step, **arguments)

  monkeypatch.setattr(ocp.CheckpointManager, "save", save)
  monkeypatch.setattr(store, "_PAUSE", 0.0)
  return tried


def test_a_save_that_fails_is_noted_and_training_goes_on(whole, tmp_path, monkeypatch, capsys):
  fail_saves(monkeypatch, 4, 8)
  toy_run.train(EXPERIMENT, tmp_path)
  notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
  assert notes == [
      f"note: {tmp_path}/checkpoints/{step}: this checkpoint can't be written: No space left on device; training goes "
      "on, and the next save tries again" for step in (4, 8)]
  assert finished_steps(tmp_path / "checkpoints") == [12] and rows(tmp_path) == rows(whole)


def test_the_last_save_of_a_run_is_tried_again(whole, tmp_path, monkeypatch):
  assert fail_saves(monkeypatch, 12, 12) is not None
  toy_run.train(EXPERIMENT, tmp_path)
  assert finished_steps(tmp_path / "checkpoints") == [4, 8, 12]


def test_three_saves_that_fail_in_a_row_end_the_run(tmp_path, monkeypatch):
  tried = fail_saves(monkeypatch, 4, 8, 12)
  with pytest.raises(RunFailed, match="checkpoints/12: .*No space left on device; those before it are kept"):
    toy_run.train(EXPERIMENT, tmp_path)
  assert tried == [4, 8, 12]


def test_checkpoints_are_kept_for_evaluation_and_saved_by_time(tmp_path, capsys):
  experiment = toy_run.make_experiment(
      steps=34, save_every=33, save_minutes=1e-9, log_every=20, keep=1, keep_every=20)
  toy_run.train(experiment, tmp_path)
  assert finished_steps(tmp_path / "checkpoints") == [20, 34]
  toy_run.train(experiment, tmp_path)
  assert "continuing after step 34\nread 0.0 MB of arrays in " in capsys.readouterr().out
