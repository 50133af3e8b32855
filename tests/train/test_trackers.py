"""Trackers see what the log says, go on after a restart, and end no training; `run.json` notes each start."""

import collections
import dataclasses
import json
import os
import signal
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from train import toy_run

import nova_jax
from nova_jax.autoencoders import make_autoencoder
from nova_jax.train.callbacks import Callback
from nova_jax.train.check import check
from nova_jax.train.metrics import TIMINGS
from nova_jax.train.trackers import TRACKERS, Tracker

ALL = ("jsonl", "tensorboard", "wandb")


class Pictures(Callback):
  """Shows a picture after some steps."""

  def evaluate(self, trainer):
    if trainer.step % 8 == 0:
      path = trainer.workdir / f"{trainer.step}.png"
      Image.fromarray(np.full((4, 6, 3), trainer.step, np.uint8)).save(path)
      trainer.show("samples", path)


def rows(workdir):
  lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
  return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]


def notes(workdir):
  return json.loads((workdir / "run.json").read_text(encoding="utf-8"))


def board(workdir):
  """Return what TensorBoard shows: {name: {step: value or picture}}; a later file replaces steps of earlier ones."""
  found = collections.defaultdict(dict)
  for path in sorted((workdir / "tensorboard").iterdir()):
    content, at = path.read_bytes(), 0
    while at < len(content):
      (size,) = struct.unpack_from("<Q", content, at)
      event = Event.FromString(content[at + 12 : at + 12 + size])
      at += 12 + size + 4
      for value in event.summary.value:
        kind = value.WhichOneof("value")
        found[value.tag][event.step] = {"simple_value": value.simple_value, "image": value.image}.get(kind)
  return found


def records(folder):
  """Yield the rows that an offline run of Weights & Biases has kept, which is a log of LevelDB's format."""
  from wandb.proto.wandb_internal_pb2 import Record

  (path,) = folder.glob("*.wandb")
  content, at, whole = path.read_bytes(), 7, b""
  while at < len(content):
    if 2**15 - at % 2**15 < 7:
      at += 2**15 - at % 2**15
    _, size, kind = struct.unpack_from("<IHB", content, at)
    whole += content[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):  # The whole of a record, or its end.
      record, whole = Record.FromString(whole), b""
      if record.WhichOneof("record_type") == "history":
        yield {(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}


@pytest.fixture
def offline(monkeypatch):
  wandb = pytest.importorskip("wandb", reason="needs the extra dev")
  for name, value in {"MODE": "offline", "ERROR_REPORTING": "false", "DISABLE_STATS": "true"}.items():
    monkeypatch.setenv(f"WANDB_{name}", value)
  yield
  wandb.teardown()


@pytest.mark.slow
def test_all_trackers_see_one_run_in_two_starts(offline, tmp_path, capsys):
  experiment = toy_run.make_experiment(steps=24, log_every=4, save_every=8, trackers=ALL)
  stop = toy_run.Do(10, lambda: os.kill(os.getpid(), signal.SIGTERM))
  toy_run.train(experiment, tmp_path, Pictures(), stop)
  toy_run.train(experiment, tmp_path, Pictures())
  out, err = capsys.readouterr()
  assert "note:" not in out and f"Weights & Biases: offline, in {tmp_path}/wandb/offline-run-" in out
  assert "WARNING URL" not in err

  expected = rows(tmp_path)
  assert [row["step"] for row in expected] == [4, 8, 12, 16, 20, 24]
  seen = board(tmp_path)
  assert {step: pytest.approx(row["loss"]) for step, row in ((row["step"], row) for row in expected)} == seen["loss"]
  assert {step: (picture.width, picture.height) for step, picture in seen["samples"].items()} == {
      step: (6, 4) for step in (8, 16, 24)}

  folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
  assert [folder.name.rpartition("-")[2] for folder in folders] == 2 * [notes(tmp_path)["id"]]
  kept = [row for folder in folders for row in records(folder)]
  assert {row["step"]: row["loss"] for row in kept if "loss" in row} == {row["step"]: row["loss"] for row in expected}
  assert [row["step"] for row in kept if "samples._type" in row or "samples" in row] == [8, 16, 24]


class Broken(Tracker):
  """Takes one line."""

  title = "Elsewhere"
  lines = 0

  def __init__(self, folder, workdir, first_step, notes):
    assert notes["config"]["seed"] == 0 and notes["starts"]

  def line(self, line):
    Broken.lines += 1
    if line.step > 4:
      raise RuntimeError("the network is gone\nand more")


class Closed(Tracker):
  """Can't even begin."""

  title = "Nowhere"

  def __init__(self, folder, workdir, first_step, notes):
    raise KeyError


def test_a_tracker_that_fails_is_noted_once_and_ends_no_training(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(TRACKERS, "broken", Broken)
  monkeypatch.setitem(TRACKERS, "closed", Closed)
  toy_run.train(toy_run.make_experiment(trackers=("broken", "closed", "jsonl"), steps=16), tmp_path, Pictures())
  assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")] == [
      "note: Nowhere: KeyError; training goes on without Nowhere",
      "note: Elsewhere: the network is gone; training goes on without Elsewhere"]
  assert len(rows(tmp_path)) == 4 and Broken.lines == 2
  assert not (tmp_path / "tensorboard").exists()  # It was not asked for.


@pytest.mark.parametrize("names, message", [
    (("tensorbord",), "train.trackers: 'tensorbord' is not known; did you mean 'tensorboard'"),
    (("jsonl", "jsonl"), "train.trackers: expected each once")])
def test_trackers_that_make_no_sense_are_refused(names, message):
  experiment = toy_run.make_experiment(trackers=names)
  with pytest.raises(ValueError, match=message):
    check(experiment, toy_run.one_device(), make_autoencoder("pixels"))


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"wandb is not installed: pip install 'wandb"):
    check(toy_run.make_experiment(trackers=ALL), toy_run.one_device(), make_autoencoder("pixels"))


def test_each_start_is_noted(tmp_path, capsys):
  experiment = toy_run.make_experiment(steps=12)
  toy_run.train(experiment, tmp_path, toy_run.Do(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
  first = notes(tmp_path)
  with pytest.raises(FloatingPointError):
    toy_run.train(experiment, tmp_path, task=toy_run.ToyTask(fails_at=8))
  # Other trackers are no other experiment.
  changed = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, trackers=("jsonl",)))
  toy_run.train(changed, tmp_path)
  run = notes(tmp_path)
  assert run["id"] == first["id"] and run["starts"][0] == first["starts"][0]
  assert run["config"]["train"]["trackers"] == ["jsonl"] and run["config"]["seed"] == 0
  assert run["data"]["data"].startswith("moving_digits ")
  began, failed, done = run["starts"]
  assert (began["first_step"], began["step"], began["end"]) == (0, 5, "stopped by SIGTERM")
  assert failed["first_step"] == 5 and failed["end"].startswith("FloatingPointError: step 9: ")
  assert (done["first_step"], done["step"], done["end"]) == (6, 12, "done")
  assert began["began"] <= began["ended"] <= done["began"]
  assert done["code"]["version"] == nova_jax.__version__ and done["versions"].keys() >= {"jax", "flax", "numpy"}
  machine = done["machine"]
  assert machine["devices"] == {"cpu": 1} and machine["processes"] == 1 and machine["mesh"]["fsdp"] == 1
  # Notes that are no notes begin anew.
  (tmp_path / "run.json").write_text("[", encoding="utf-8")
  capsys.readouterr()
  toy_run.train(experiment, tmp_path)
  assert "the notes of the run begin anew" in capsys.readouterr().out
  assert len(notes(tmp_path)["starts"]) == 1


def test_notes_without_room_end_no_training(tmp_path, capsys):
  (tmp_path / "run.json").mkdir()
  toy_run.train(toy_run.make_experiment(steps=4), tmp_path)
  assert f"note: {tmp_path}/run.json can't be written" in capsys.readouterr().out
  assert len(rows(tmp_path)) == 1
