"""Training in a bucket: the numbers, checkpoints and lines of a run on a disk, whatever the bucket does."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from train import toy_run
from train.test_processes import ROOT, TOY, Run, arrays, assert_close, assert_equal, metrics, programs  # noqa: F401

from nova_jax.checkpoints import store
from nova_jax.checkpoints.store import finished_steps
from nova_jax.train.callbacks.profile import Profile
from nova_jax.train.workdir.status import read_status
from nova_jax.utils import lease
from nova_jax.utils.errors import RunFailed, UserError

pytestmark = pytest.mark.slow
EXPERIMENT = toy_run.make_experiment(steps=6, log_every=1, keep=3, save_every=2)
STEPS = [2, 4, 6]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(store, "_PAUSE", 0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  toy_run.train(EXPERIMENT, workdir)
  return workdir


def test_a_run_leaves_in_a_bucket_what_it_leaves_on_a_disk(whole, folder, capsys):
  toy_run.train(EXPERIMENT, folder, Profile((2, 3)))
  assert_equal(folder, whole)
  assert finished_steps(folder / "checkpoints") == STEPS
  names = lambda root: {path.relative_to(root).as_posix() for path in root.rglob("*")}
  own = {name for name in names(folder) if name.partition("/")[0] not in ("checkpoints", "tensorboard", "profile")}
  assert own == {"config.json", "identity.json", "run.json", "metrics.jsonl"}
  assert {name.partition("/")[0] for name in names(folder)} >= {"checkpoints", "tensorboard", "profile"}
  assert read_status(folder).lines()[0] == "done"
  assert f"done: 6 steps, checkpoints in {folder}/checkpoints" in capsys.readouterr().out


def start(workdir, steps=6, **env):
  return subprocess.Popen(
      [sys.executable, str(TOY), f"--workdir={workdir}", f"--set=steps={steps}", "--set=log_every=1", "--set=keep=3",
       "--set=save_every=2"],
      env=os.environ | env | {
          "PYTHONPATH": str(ROOT),
          "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"},  # The last one counts.
      cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8")


@pytest.mark.parametrize("moment", ["checkpoints/4/state/d/", "checkpoints/4/commit_success.txt", "metrics.jsonl"])
def test_a_run_killed_while_it_writes_continues_bit_for_bit(whole, bucket, folder, moment):
  process = start(folder)

  def kill(method, path):
    if method == "POST" and moment in path and any("checkpoints/2/commit_success" in done for done in bucket.requests):
      process.kill()
      process.wait()
      return "away"
    return None

  bucket.requests.clear()
  bucket.fail = kill
  out, _ = process.communicate(timeout=600)
  assert process.returncode == -9, out
  bucket.fail = lambda method, path: None
  assert 6 not in finished_steps(folder / "checkpoints")
  toy_run.train(EXPERIMENT, folder)
  assert_equal(folder, whole)
  assert finished_steps(folder / "checkpoints") == STEPS


def test_an_unfinished_checkpoint_that_is_the_only_one_is_removed(folder):
  (folder / "checkpoints/2/state/manifest").write_bytes(b"1")
  with store.Checkpointer(folder / "checkpoints", keep=1) as checkpoints:
    assert checkpoints.latest_step() is None
  assert finished_steps(folder / "checkpoints") == []


def test_a_run_killed_ten_times_ends_as_one_that_was_not(bucket, folder, tmp_path):
  """Killed a moment after random writes, or at those of the last checkpoint; the first process alone compiles."""
  random, compiled_in = np.random.default_rng(0), folder.parent / f"{folder.name}-programs"
  experiment = toy_run.make_experiment(steps=12, log_every=1, keep=3, save_every=2)
  toy_run.train(experiment, tmp_path)
  for _ in range(10):
    process = start(folder, 12, JAX_COMPILATION_CACHE_DIR=str(compiled_in))
    left, lock, pause = int(random.integers(1, 25)), threading.Lock(), random.uniform(0, 0.1)

    def kill(method, path, process=process, lock=lock, pause=pause):
      nonlocal left
      with lock:
        left -= method == "POST" and folder.name + "/" in path
        if left > 0 and "checkpoints/12/" not in path:
          return None
        time.sleep(pause)
        process.kill()
        process.wait()
      return "away"

    bucket.fail = kill
    out, _ = process.communicate(timeout=600)
    assert process.returncode == -9, out
    bucket.fail = lambda method, path: None
  compiled = {path.name for path in compiled_in.rglob("*-cache")}
  bucket.requests.clear()
  process = start(folder, 12, JAX_COMPILATION_CACHE_DIR=str(compiled_in))
  out, _ = process.communicate(timeout=600)
  assert process.returncode == 0, out
  assert any(f"{compiled_in.name}/jit_" in path and path.startswith("GET") for path in bucket.requests)
  assert compiled and "step" in " ".join(compiled)
  assert metrics(folder) == metrics(tmp_path) and len(metrics(folder)) == 12
  ours, expected = arrays(folder, 12), arrays(tmp_path, 12)
  assert ours.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)
  assert len(read_status(folder).starts) > 1


def test_two_processes_train_in_a_bucket(bucket, folder, tmp_path):
  Run(tmp_path, 2, "--mesh=2,1").done()
  Run(folder, 2, "--mesh=2,1").done()
  assert_equal(folder, tmp_path)


def test_two_runs_do_not_share_a_workdir(folder, monkeypatch):
  monkeypatch.setattr(lease, "RENEWED", 0.1)
  with lease.held(folder, print):
    assert lease.read_holder(folder)[1] < 60
    with pytest.raises(UserError, match=f"{folder}: process [0-9]+ of host .* is training here"):
      toy_run.train(EXPERIMENT, folder)
  assert not (folder / "config.json").exists()


def test_a_run_that_lost_its_workdir_saves_nothing_more(folder, monkeypatch):
  monkeypatch.setattr(lease, "RENEWED", 0.05)

  def take_over():
    (folder / "lease.json").write_text(json.dumps({"host": "other", "process": 7}), encoding="utf-8")
    lease._held[str(folder)]._thread.join(10)

  with pytest.raises(RunFailed, match="process 7 of host other has taken this folder over"):
    toy_run.train(EXPERIMENT, folder, toy_run.Do(3, take_over))
  assert finished_steps(folder / "checkpoints") == [2]
  assert (folder / "lease.json").exists()


@pytest.mark.parametrize("status", [429, 503, "away"])
def test_a_bucket_that_fails_for_a_while_costs_nothing(whole, bucket, folder, status, capsys):
  left = bucket.times(4, status, word="checkpoints/4/")
  toy_run.train(EXPERIMENT, folder)
  assert left == [0] and "note" not in capsys.readouterr().out
  assert_equal(folder, whole)
  assert finished_steps(folder / "checkpoints") == STEPS


@pytest.mark.parametrize("word", ["state/d/", "data/metadata", "commit_success"])
def test_a_save_that_fails_is_told_and_training_goes_on(whole, bucket, folder, word, capsys):
  bucket.times(1, 403, method="POST", word=f"checkpoints/4/{word}")
  toy_run.train(EXPERIMENT, folder)
  notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
  assert notes == [
      f"note: {folder}/checkpoints/4: this checkpoint can't be written: Permission denied; training goes on, and the "
      "next save tries again"]
  assert_equal(folder, whole)
  assert finished_steps(folder / "checkpoints") == [2, 6]


def test_the_last_save_is_tried_again(whole, bucket, folder, capsys):
  bucket.times(1, 403, method="POST", word="checkpoints/6/data/metadata")
  toy_run.train(EXPERIMENT, folder)
  assert capsys.readouterr().out.count("can't be written") == 1
  assert_equal(folder, whole)
  assert finished_steps(folder / "checkpoints") == STEPS


def test_a_bucket_that_takes_no_checkpoints_ends_the_run(bucket, folder):
  bucket.fail = lambda method, path: 403 if method == "POST" and "/checkpoints/" in path else None
  with pytest.raises(RunFailed, match=f"{folder}/checkpoints/6: this checkpoint can't be written: Permission denied"):
    toy_run.train(EXPERIMENT, folder)


def test_metrics_that_can_not_be_uploaded_wait(whole, bucket, folder, capsys):
  bucket.times(2, 403, method="POST", word="metrics.jsonl")
  toy_run.train(EXPERIMENT, folder)
  assert capsys.readouterr().out.count("note:") == 1
  assert metrics(folder) == metrics(whole)


def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(whole, folder, capsys):
  toy_run.train(EXPERIMENT, folder)
  file = max((folder / "checkpoints/6/state").rglob("*"), key=lambda path: path.stat().st_size)
  file.write_bytes(file.read_bytes()[:100])
  toy_run.train(EXPERIMENT, folder)
  assert "continuing after step 4" in capsys.readouterr().out
  assert_equal(folder, whole)
  assert (folder / "checkpoints/6.damaged/state").is_dir()
