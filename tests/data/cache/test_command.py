"""`launch.cache`, as a user types it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest
from data.cache.footage import CLIPS

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [
    sys.executable, "-m", "launch.cache", "--config=configs/cache.py", "--config.autoencoder=rgb",
    "--config.buckets=((5, 32, 48),)", "--config.shard_items=4"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp("source")
  for i in range(48):
    (folder / f"{i:02}.mp4").write_bytes(CLIPS["bigbuckbunny.mp4"].read_bytes())
    (folder / f"{i:02}.txt").write_text(f"a rabbit, {i}", encoding="utf-8")
  (folder / "zero.mp4").write_bytes(b"")
  return folder


def run(source, output, *args):
  args = [*COMMAND, f"--source={source}", f"--output={output}", *args]
  return subprocess.run(args, cwd=ROOT, capture_output=True, encoding="utf-8")


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_killed_and_continued(source, tmp_path):
  """Killed with its workers at work, it leaves none of them behind, and continues to the same bytes."""
  done = run(source, tmp_path / "whole")
  assert done.returncode == 0, done.stderr
  assert "49 items seen: 48 cached" in done.stdout and "rejected.jsonl" in done.stdout
  output = tmp_path / "out"
  process = subprocess.Popen(
      [*COMMAND, f"--source={source}", f"--output={output}", "--num_workers=2"], cwd=ROOT, stdout=subprocess.PIPE)
  deadline = time.monotonic() + 240
  while not list(output.glob("*.array_record")) and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  # Ends only when the last worker has let go of it.
  process.communicate(timeout=60)
  assert process.returncode == -signal.SIGKILL and not (output / "manifest.json").exists()
  done = run(source, output, "--num_workers=0")
  assert done.returncode == 0, done.stderr
  assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.parametrize("args, message", [
    (["--config.strid=2"], "did you mean 'stride'"), (["--source=/nowhere"], "--source: there is no /nowhere")])
def test_bad_input(source, tmp_path, args, message):
  failed = commands.run("cache", *COMMAND[3:], f"--source={source}", f"--output={tmp_path / 'out'}", *args)
  assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and message in failed.stderr, failed.stderr
  assert not (tmp_path / "out").exists()
