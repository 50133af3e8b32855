"""The commands for TPU VMs, run by a stand-in for gcloud: its machines are a folder, its ssh is bash."""

import os
import shlex
import subprocess
from pathlib import Path

import commands
import pytest

from nova_jax.tools.tpu_vm import Code, Gcloud, Machines
from nova_jax.utils.errors import RunFailed

MACHINES = Machines("nova", "us-west4-a", accelerator="v5litepod-16", version="v2-alpha-tpuv5-lite", spot=True)
TRAIN = ["--config=configs/digits.py", "--workdir=/mnt/a run"]

GCLOUD = r"""#!/bin/bash
cd $TPU; verb=$4; echo "$verb $5" >> calls
case $verb in
  describe) state=$(head -n 1 states); sed -i 1d states
            [ "$state" != NONE ] && echo $state || { echo NOT_FOUND >&2; false; };;
  create) mkdir home;;
  delete) kill -KILL -- -$(cat home/nova_jax/train.pid) 2>/dev/null; rm -rf home;;
  scp) cp $OLDPWD/$5 home;;
  ssh) for argument; do case $argument in --command=*) cd home; bash -c "${argument#--command=}";; esac; done;;
esac
"""
# The first run loses a host, the second one is cut off by a preemption, the third one ends as it should.
PYTHON = r"""#!/bin/bash
[ "$1 $2 $3" = "-m venv .venv" ] && { mkdir -p .venv/bin; cp $0 .venv/bin/python; cp $0 .venv/bin/pip; exit; }
[ "$1" = install ] && { test -f pyproject.toml; exit; }
echo run "$@" >> $TPU/calls
case $(grep -c ^run $TPU/calls) in
  1) echo "error: process 1 of 2 is lost"; exit 1;;
  2) exec sleep 60;;
  *) echo "done: 5 steps";;
esac
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
  for name, text in (("gcloud", GCLOUD), ("python3.11", PYTHON)):
    (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "bin" / name).write_text(text, encoding="utf-8")
    (tmp_path / "bin" / name).chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
  monkeypatch.setenv("TPU", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  (tmp_path / "code").mkdir()
  (tmp_path / "code/pyproject.toml").write_text("", encoding="utf-8")
  return tmp_path


def test_watch_brings_a_run_through_a_lost_host_and_a_preemption(fake, monkeypatch):
  states = ["NONE", "PROVISIONING", "ACTIVE", "ACTIVE", "ACTIVE", "SUSPENDED", "ACTIVE", "ACTIVE"]
  (fake / "states").write_text("\n".join(states) + "\n", encoding="utf-8")
  rounds = []

  def sleep(seconds):  # A run that ends does so between two looks.
    rounds.append(seconds)
    assert len(rounds) < 20
    subprocess.run(["sleep", "0.5"])

  monkeypatch.setattr("nova_jax.tools.tpu_vm.time.sleep", sleep)
  Gcloud(MACHINES).watch(Code("code"), TRAIN, 60.0)
  calls = (fake / "calls").read_text(encoding="utf-8").splitlines()
  run = "run -m launch.train --coordinator=auto --config=configs/digits.py --workdir=/mnt/a run"
  expected = [
      "describe nova", "create nova", "describe nova",
      "describe nova", "ssh nova", "scp nova_jax.tar.gz", "ssh nova", "ssh nova", run,  # Look, install, start.
      "describe nova", "ssh nova", "ssh nova", run,  # Look, start.
      "describe nova", "ssh nova",  # It runs.
      "describe nova", "delete nova", "create nova",
      "describe nova", "ssh nova", "scp nova_jax.tar.gz", "ssh nova", "ssh nova", run, "describe nova", "ssh nova"]
  assert calls == expected
  assert rounds == [60.0] * 7


def test_a_run_that_fails_for_good_ends_the_watch(fake, monkeypatch):
  monkeypatch.setattr("nova_jax.tools.tpu_vm.time.sleep", lambda _: None)
  gcloud = Gcloud(MACHINES)
  monkeypatch.setattr(gcloud, "state", lambda: "ACTIVE")
  for name in ("install", "start"):
    monkeypatch.setattr(gcloud, name, lambda *_: None)
  monkeypatch.setattr(gcloud, "runs", lambda: [("2", "error: --workdir x is a file"), ("2", "")])
  with pytest.raises(ValueError, match="^--workdir x is a file"):
    gcloud.watch(Code(), TRAIN, 0)
  monkeypatch.setattr(gcloud, "runs", lambda: [("1", "error: step 7: loss is nan"), ("1", "")])
  with pytest.raises(RunFailed, match="failed 3 times: error: step 7: loss is nan"):
    gcloud.watch(Code(), TRAIN, 0)


def test_a_run_that_moves_on_between_losses_is_started_as_often_as_it_takes(fake, monkeypatch):
  lost = "error: process 1 of 2 (host b) is lost; start the same command again to continue after step"
  rounds = [("nothing", "")]
  for step in range(100, 600, 100):
    rounds += [("running", f"image {step + 20}/600: loss 0.5, grad 1.0"), ("1", f"{lost} {step}")]
  rounds.append(("0", "done: 600 steps"))
  stuck = [("nothing", ""), *[("running", "image 8/600: loss 0.5"), ("1", "error: step 9: loss is nan")] * 9]
  starts = []
  monkeypatch.setattr("nova_jax.tools.tpu_vm.time.sleep", lambda _: None)
  gcloud = Gcloud(MACHINES)
  monkeypatch.setattr(gcloud, "state", lambda: "ACTIVE")
  monkeypatch.setattr(gcloud, "install", lambda *_: None)
  monkeypatch.setattr(gcloud, "start", starts.append)
  monkeypatch.setattr(gcloud, "runs", lambda: [rounds.pop(0)])
  gcloud.watch(Code(), TRAIN, 0)
  assert len(starts) == 6
  monkeypatch.setattr(gcloud, "runs", lambda: [stuck.pop(0)])
  with pytest.raises(RunFailed, match="failed 3 times: error: step 9"):
    gcloud.watch(Code(), TRAIN, 0)


def test_a_number_of_before_a_reboot_is_no_run(fake):
  home = fake / "home/nova_jax"
  home.mkdir(parents=True)
  gcloud = Gcloud(MACHINES)
  (home / "train.pid").write_text(f"{os.getpid()}\n", encoding="utf-8")
  (home / "train.boot").write_text(
      Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"), encoding="utf-8")
  assert gcloud.runs() == [("running", "")]
  (home / "train.boot").write_text("another one\n", encoding="utf-8")
  assert gcloud.runs() == [("nothing", "")]
  child = subprocess.Popen(["sleep", "60"])
  gcloud.stop()
  assert child.poll() is None
  child.kill()
  child.wait()


def test_machines_that_can_not_be_reached_are_given_back(fake, monkeypatch):
  """They are active, and no ssh gets through for a quarter of an hour; then the request is made anew."""
  now, calls = [0.0], []
  monkeypatch.setattr("nova_jax.tools.tpu_vm.time.sleep", lambda seconds: now.__setitem__(0, now[0] + 60))
  monkeypatch.setattr("nova_jax.tools.tpu_vm.time.monotonic", lambda: now[0])
  gcloud = Gcloud(MACHINES)
  monkeypatch.setattr(gcloud, "state", lambda: "ACTIVE")

  def runs():
    if "create" in calls:
      return [("0", "done: 5 steps")]
    raise OSError("no answer")

  monkeypatch.setattr(gcloud, "runs", runs)
  for name in ("delete", "create"):
    monkeypatch.setattr(gcloud, name, lambda name=name: calls.append(name))
  gcloud.watch(Code(), TRAIN, 60.0)
  assert calls == ["delete", "create"] and now[0] == 17 * 60


@pytest.mark.parametrize("kind, version", [
    ("v6e-64", "v2-alpha-tpuv6e"), ("v5p-128", "v2-alpha-tpuv5"), ("v5litepod-8", "v2-alpha-tpuv5-lite"),
    ("v4-8", "tpu-ubuntu2204-base")])
def test_the_software_of_the_machines_follows_from_their_type(kind, version):
  done = launch("create", f"--type={kind}", "--dry_run", "--create_flag=--service-account=me")
  assert f"--runtime-version={version} " in done.stdout and done.stdout.rstrip().endswith(
      "--service-account=me --zone=us-west4-a")
  done = launch("log", "--dry_run", "--ssh_flag=--tunnel-through-iap")
  assert "--quiet --tunnel-through-iap" in done.stdout


def launch(*args):
  return commands.run("tpu_vm", "--name=nova", "--zone=us-west4-a", *args)


def test_dry_run_prints_what_a_shell_would_run():
  done = launch(
      "watch", "--type=v5litepod-256", "--version=v2-alpha-tpuv5-lite", "--slices=2", "--setup=sudo mount 'a b' /mnt",
      "--dry_run", "--", *TRAIN)
  assert done.returncode == 0 and not done.stderr, done.stderr
  commands = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
  verbs = [command[4] if command[0] == "gcloud" else command[0] for command in commands]
  assert verbs == ["describe", "ssh", "delete", "create", "tar", "scp", "ssh", "ssh"]
  assert {"--node-count=2", "--node-prefix=nova", "--zone=us-west4-a"} < set(commands[3])
  assert commands[6][-2].startswith("--command=sudo mount 'a b' /mnt && ")
  assert "'\"'\"'--workdir=/mnt/a run'\"'\"'" in commands[7][-2]


@pytest.mark.parametrize("args, message", [
    ((), "expected a command, one of create"), (("create", "--dry_run"), "--type: expected that of the TPU"),
    (("start", "--dry_run"), "--workdir"), (("delete",), "gcloud is not installed"),
    (("create", "--dry_run", "--type=a", "--version=b", "--spot", "--reserved"), "not both"),
    (("install", "--source=/nowhere", "--dry_run"), "expected the folder of this code")])
def test_bad_input_gives_one_line(monkeypatch, args, message):
  monkeypatch.setenv("PATH", "/nowhere")
  failed = launch(*args)
  assert failed.returncode == 2 and message in failed.stderr and failed.stderr.count("\n") == 1, failed.stderr
