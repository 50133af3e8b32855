"""Hosts share out a cache by claims: they come and go, and nothing is lost or done twice."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import pytest
from data.cache import many_kinds

from nova_jax.data.cache import claims
from nova_jax.data.cache.build import build
from nova_jax.data.cache.claims import Claims
from nova_jax.data.cache.on_ray import build_on_ray
from nova_jax.data.cache.sources import listing
from nova_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("made")
  source = many_kinds.write_source(folder)
  build(str(source), folder / "out", many_kinds.CFG)
  return source, many_kinds.digests(folder / "out")


def do(folder, num, done, **options):
  """Do tasks as a host does, and note which."""
  with Claims(folder, num, folder / "over", **options) as tasks:
    for number in tasks.each():
      done.append(number)
      tasks.path(number).write_text("{}", encoding="utf-8")


def test_each_task_is_done_once(tmp_path):
  done = [[], [], []]
  threads = [threading.Thread(target=do, args=(tmp_path, 40, own), kwargs={"first": 13 * i})
             for i, own in enumerate(done)]
  [thread.start() for thread in threads]
  [thread.join() for thread in threads]
  assert sorted(sum(done, [])) == list(range(40)) and not list(tmp_path.glob("*.claim*"))


def test_a_host_begins_where_it_is_told_and_goes_on_to_all(tmp_path, monkeypatch):
  monkeypatch.setattr(claims, "_BLOCK", 4)
  do(tmp_path, 11, done := [], first=6)
  assert done == [6, 7, 4, 5, 8, 9, 10, 0, 1, 2, 3]
  do(tmp_path, 11, done := [])
  assert done == []


def test_a_claim_whose_holder_is_silent_lapses(tmp_path, monkeypatch):
  clock = types.SimpleNamespace(monotonic=lambda: now, time_ns=time.time_ns)
  monkeypatch.setattr(claims, "time", clock)
  for number in range(2):
    (tmp_path / f"00000{number}.claim-0").write_text("of another host", encoding="utf-8")
  tasks, now = Claims(tmp_path, 2, tmp_path / "over"), 0.0
  assert not tasks.claim(0) and not tasks.claim(1)
  now = claims.LAPSES - 1
  (tmp_path / "000001.claim-0").write_text("of another host, which lives", encoding="utf-8")
  assert not tasks.claim(0) and not tasks.claim(1)
  now = claims.LAPSES + 1
  assert tasks.claim(0) and not tasks.claim(1)
  assert (tmp_path / "000000.claim-1").is_file()
  tasks.release(0)
  assert not list(tmp_path.glob("000000*"))


@pytest.mark.parametrize("turn", [0, 1])
def test_a_holder_shows_that_it_lives(tmp_path, monkeypatch, turn):
  monkeypatch.setattr(claims, "RENEWED", 0.01)
  monkeypatch.setattr(Claims, "_is_over", lambda *_: True)
  for lapsed in range(turn):
    (tmp_path / f"000000.claim-{lapsed}").write_text("of another host", encoding="utf-8")
  with Claims(tmp_path, 1, tmp_path / "over") as tasks:
    assert tasks.claim(0)
    own = tmp_path / f"000000.claim-{turn}"
    before = own.read_bytes()
    for _ in range(1000):
      if own.read_bytes() not in (before, b""):
        return
      time.sleep(0.01)
  pytest.fail("the claim was not written anew")


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path):
  dead = subprocess.run([sys.executable, "-c", textwrap.dedent("""
      from nova_jax.utils.writers import writer
      print(writer())""")], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.strip()
  for turn in range(2):
    (tmp_path / f"000000.claim-{turn}").write_text(json.dumps({"writer": dead}), encoding="utf-8")
  do(tmp_path, 1, done := [])
  assert done == [0] and not list(tmp_path.glob("*.claim*"))


def test_when_all_is_over_nothing_is_claimed(tmp_path):
  (tmp_path / "over").write_text("", encoding="utf-8")
  do(tmp_path, 3, done := [])
  assert done == []


def test_no_task_of_ray_builds_nothing(tmp_path):
  with pytest.raises(UserError, match="num_tasks: expected 1 or more, got 0"):
    build_on_ray(str(tmp_path), tmp_path / "out", many_kinds.CFG, num_tasks=0)


BUILD = textwrap.dedent("""
    import pathlib, sys, time
    from data.cache import many_kinds
    from nova_jax.data.cache.build import build
    source, output, at, go = sys.argv[1:]
    def show(done, total, counts):
      print(done, flush=True)
      while done == int(at) and not pathlib.Path(go).exists():
        time.sleep(0.02)
    build(source, output, many_kinds.CFG, progress=show)
""")


def start(source, output, at, go=""):
  """Start a build that waits at an item until there is a file."""
  return subprocess.Popen(
      [sys.executable, "-c", BUILD, str(source), str(output), str(at), str(go or "never")],
      stdout=subprocess.PIPE, encoding="utf-8", env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}, cwd=ROOT)


def wait_for(process, count):
  while int(process.stdout.readline()) < count:
    pass


@pytest.mark.slow
def test_one_of_two_processes_is_killed_and_a_third_joins_late(made, tmp_path):
  source, expected = made
  killed, other = start(source, tmp_path / "out", 9), start(source, tmp_path / "out", 20, tmp_path / "go")
  wait_for(killed, 9)  # In its second part.
  wait_for(other, 20)
  killed.send_signal(signal.SIGKILL)
  killed.wait()
  assert len(list((tmp_path / "out/parts").glob("*.claim-0"))) >= 2
  late = start(source, tmp_path / "out", -1)
  wait_for(late, 1)
  (tmp_path / "go").write_text("", encoding="utf-8")
  seen = [int(process.communicate(timeout=300)[0].split()[-1]) for process in (other, late)]
  assert other.returncode == late.returncode == 0
  assert many_kinds.digests(tmp_path / "out") == expected
  assert sum(seen) == 86 - 7 and min(seen) > 0  # All but the part that was done before.


def test_a_killed_host_lists_a_part_of_the_source_and_others_the_rest(made, tmp_path, monkeypatch):
  source, expected = made
  real, listed = listing._list_unit, []

  def once(folder, number, *args):
    if len(listed) == 2:
      raise KeyboardInterrupt
    listed.append(number)
    real(folder, number, *args)

  monkeypatch.setattr(listing, "_list_unit", once)
  with pytest.raises(KeyboardInterrupt):
    build(str(source), tmp_path / "out", many_kinds.CFG)
  monkeypatch.setattr(listing, "_walk", None)  # That is done.
  monkeypatch.setattr(listing, "_list_unit", lambda folder, number, *args: (listed.append(number), real(
      folder, number, *args)))
  build(str(source), tmp_path / "out", many_kinds.CFG)
  assert len(listed) == len(set(listed)) == 8
  assert many_kinds.digests(tmp_path / "out") == expected


@pytest.mark.parametrize("chunk", [1, 3])
def test_lists_in_many_files_are_the_same_list(made, tmp_path, chunk, monkeypatch):
  source, expected = made
  monkeypatch.setattr(listing, "_CHUNK", chunk)
  build(str(source), tmp_path / "out", many_kinds.CFG)
  assert many_kinds.digests(tmp_path / "out") == expected
