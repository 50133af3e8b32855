"""Several processes on this machine as one run: the same numbers as one process, and an end when one is lost."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from train import toy_run

from nova_jax.checkpoints.store import find, finished_steps, open_arrays
from nova_jax.train.metrics import TIMINGS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).with_name("toy_process.py")
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
  """Processes compile each program once, between them."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("programs")))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    yield


class Run:
  """Processes of `toy_process.py` on one workdir, with a device each."""

  def __init__(self, workdir, num_processes, *arguments):
    with socket.create_server(("", 0)) as free:
      port = free.getsockname()[1]
    self.processes = []
    for i in range(num_processes):
      env = os.environ | {
          "PYTHONPATH": str(ROOT), "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
          "JAX_NUM_PROCESSES": str(num_processes), "JAX_PROCESS_ID": str(i),
          "XLA_FLAGS": "--xla_backend_optimization_level=0"}
      self.processes.append(subprocess.Popen(
          [sys.executable, str(TOY), f"--workdir={workdir}", f"--set=steps={STEPS}", "--set=log_every=1", *arguments],
          env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"))

  def end(self, seconds=900):
    """Return exit code, stdout and stderr of each process."""
    deadline, results = time.monotonic() + seconds, []
    try:
      for process in self.processes:
        out, err = process.communicate(timeout=deadline - time.monotonic())
        results.append((process.returncode, out, err))
    finally:
      for process in self.processes:
        process.kill()
    return results

  def done(self):
    results = self.end()
    assert [code for code, *_ in results] == [0] * len(results), results
    return results


def arrays(workdir, step=STEPS):
  return {name: array.read() for name, array in open_arrays(find(workdir / "checkpoints", step=step)).items()}


def metrics(workdir):
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
  return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


def assert_close(workdir, other):
  ours, expected = arrays(workdir), arrays(other)
  assert ours.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-5 * max(np.abs(value).max(), 1e-6), err_msg=name)
  assert len(metrics(workdir)) == len(metrics(other)) == STEPS
  for row, wanted in zip(metrics(workdir), metrics(other), strict=True):
    assert row.pop("stage") == wanted.pop("stage") and row == pytest.approx(wanted, rel=1e-5)


def assert_equal(workdir, other):
  ours, expected = arrays(workdir), arrays(other)
  assert ours.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)
  assert metrics(workdir) == metrics(other)


def in_process(workdir):
  """Train, or continue, in this process on one device."""
  toy_run.train(toy_run.make_experiment(steps=STEPS, log_every=1), workdir)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  """The run of one process."""
  workdir = tmp_path_factory.mktemp("one")
  in_process(workdir)
  return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """The run of two processes, each of which reads half of the rows; checkpoints after steps 3 and 6."""
  workdir = tmp_path_factory.mktemp("two")
  results = Run(workdir, 2, "--mesh=2,1").done()
  assert [out.count("done: 6 steps") for _, out, _ in results] == [1, 0]
  return workdir


def test_two_processes_equal_one(one, two):
  assert_close(two, one)


def test_a_checkpoint_of_two_processes_resumes_on_one(one, two, tmp_path):
  shutil.copytree(two, tmp_path / "run")
  shutil.rmtree(tmp_path / "run/checkpoints/6")
  in_process(tmp_path / "run")
  assert_close(tmp_path / "run", one)


def test_the_replica_of_one_process_is_read_for_both(two, tmp_path):
  shutil.copytree(two, tmp_path / "run")
  shutil.rmtree(tmp_path / "run/checkpoints/6")
  results = Run(tmp_path / "run", 2, "--mesh=2,1").done()
  assert [out.count(", once for 2 replicas") for _, out, _ in results] == [1, 0]
  assert_equal(tmp_path / "run", two)


def wait_for_checkpoint(workdir, after=0):
  deadline = time.monotonic() + 600
  while not (steps := finished_steps(workdir / "checkpoints")) or steps[-1] <= after:
    assert time.monotonic() < deadline
    time.sleep(0.05)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
  """The run of two processes, of which one was killed after a checkpoint."""
  workdir = tmp_path_factory.mktemp("killed")
  run = Run(workdir, 2, "--mesh=2,1", "--pause=1,5")
  wait_for_checkpoint(workdir)
  time.sleep(1.0)
  run.processes[1].kill()
  (code, _, err), (killed, *_) = run.end()
  assert (code, killed) == (1, -signal.SIGKILL)
  assert err.splitlines()[-1].startswith(f"error: process 1 (host {socket.gethostname()}) of 2 is lost (traceback: ")
  assert "stack trace" not in err and "Aborted" not in err
  return workdir


def test_a_killed_process_ends_the_other(killed):
  assert finished_steps(killed / "checkpoints")


def test_after_a_kill_the_same_command_continues(one, two, killed, tmp_path):
  """Bit for bit, or closely with four processes, of which pairs share the work on a sample, and so its rows."""
  for name in ("run", "four"):
    shutil.copytree(killed, tmp_path / name)
  Run(tmp_path / "run", 2, "--mesh=2,1").done()
  assert_equal(tmp_path / "run", two)
  Run(tmp_path / "four", 4, "--mesh=2,1,2").done()
  assert_close(tmp_path / "four", one)


def test_an_error_in_one_ends_all_and_a_signal_to_one_stops_all_after_the_same_step(tmp_path):
  args = (tmp_path, 2, "--mesh=2,1", "--set=steps=100000", "--set=log_every=1000")
  (code, _, err), (others, _, said) = Run(*args, "--fail=0,5").end()
  assert (code, others) == (2, 1)
  assert err.splitlines()[-1] == "error: the toy is broken"
  assert said.splitlines()[-1].startswith(f"error: process 0 (host {socket.gethostname()}) of 2 is lost (traceback: ")
  run = Run(*args)
  wait_for_checkpoint(tmp_path, after=3)
  run.processes[1].terminate()
  (_, out, _), (_, silent, _) = run.done()
  step = finished_steps(tmp_path / "checkpoints")[-1]
  assert f"stopped by a signal to one of the processes after step {step}; the same command continues" in out
  assert "stopped" not in silent
