"""The benchmark's parts on a tiny model: what it prints and returns, turns, and one line for what it can't do."""

import sys

import pytest
from commands import run
from models.test_nova import TINY

from nova_jax.tools.versus_published.measure import TimeLeft, alternate, cost_against_frames, measure, summary
from nova_jax.tools.versus_published.peer import Peer, sizes
from nova_jax.tools.versus_published.work import Work

SMALL = Work(TINY, num_visible=2, num_sets=2, num_steps=2)


class Twin:
  """A peer that takes no time."""

  def seconds(self, what, num_frames):
    return 1e-3


def test_both_sides_take_turns_and_the_first_run_does_not_count():
  calls = []
  sides = {name: lambda name=name: calls.append(name) or len(calls) for name in ("a", "b")}
  assert alternate(sides, 2) == {"a": [3, 5], "b": [4, 6]}
  assert calls == ["a", "b"] * 3
  assert summary([3, 1, 2.5]) == {"best": 1000, "median": 2500}


def test_what_there_is_no_time_for_is_left_out_and_said():
  now, lines = [0.0], []

  def run():
    now[0] += 10
    return 10.0

  left = TimeLeft(25, lambda: now[0])
  assert alternate({"a": run}, 3, left) == {"a": [10.0]}, "at least one that counts"
  assert not left.is_enough(10) and left.is_enough(5)
  assert cost_against_frames(SMALL, "train", (2, 4), lines.append, left, expected=(0, 3)) == {}
  assert cost_against_frames(SMALL, "train", (2, 4), lines.append, left, expected=(6, 0)) == {}
  assert lines == 2 * ["  train 2, 4 frames: left out, since there is no time"]


@pytest.mark.slow
def test_tiny_work_is_measured():
  lines = []
  results = measure(SMALL, 2, (1, 2), 1, Twin(), lines.append)
  assert len(lines) == 9 and lines[0].startswith("on ")
  generated = results["generate"]
  for preset in ("fast", "faster"):
    ratio, gain = (generated[preset][name] for name in ("ratio", "gain"))
    assert ratio == pytest.approx(generated["ratio"] * gain)
  for what in ("train", "generate"):
    assert results[what]["ratio"] == pytest.approx(1 / results[what]["ours"]["best"])
    assert list(results[what]["frames"]) == [1, 2]
    assert 0 < results[what]["share_of_peak"] < 1


def test_sizes_have_published_names():
  got = sizes(Work())
  assert got["names"] == ["vit_d4w768", "vit_d8w768", "mlp_d3w768"]
  assert sum(got["set_sizes"]) == 256 and len(got["set_sizes"]) == 16


def test_a_checkout_whose_dependencies_are_missing(tmp_path):
  (tmp_path / "diffnext" / "models").mkdir(parents=True)
  with pytest.raises(ValueError, match="--peer: No module named .*install its dependencies"):
    Peer(str(tmp_path), sys.executable, SMALL)
  with pytest.raises(ValueError, match="--peer_python: cannot run '/nowhere'"):
    Peer(str(tmp_path), "/nowhere", SMALL)


@pytest.mark.parametrize("code, message", [
    ("raise RuntimeError('CUDA is\\n busy')", "^--peer: RuntimeError: CUDA is busy$"),
    ("import os, sys; print('a\\nno memory', file=sys.stderr, flush=True); os._exit(3)", "exit code 3: no memory$"),
    ("import os; os._exit(3)", "^--peer: the worker ended with exit code 3$")])
def test_a_worker_that_fails_says_why(tmp_path, code, message):
  (tmp_path / "diffnext").mkdir()
  (tmp_path / "torch.py").write_text(code, encoding="utf-8")  # The first thing that it imports.
  with pytest.raises(ValueError, match=message):
    Peer(str(tmp_path), sys.executable, SMALL)


@pytest.mark.parametrize("args, message", [
    (["--peer=/nowhere"], "--peer: expected a checkout"), (["--json=/nowhere/x"], "--json: there is no folder"),
    (["--repeats=0"], "repeats")])
def test_bad_input(args, message):
  failed = run("benchmark", *args)
  assert failed.returncode == 2
  assert failed.stderr.count("\n") == 1 and message in failed.stderr, failed.stderr
