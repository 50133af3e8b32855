"""What a log says of long work."""

import io

import jax
import pytest

from nova_jax.utils import progress
from nova_jax.utils.progress import Pace, Progress


@pytest.fixture
def clock(monkeypatch):
  clock = {"now": 0.0}
  monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
  return clock


def test_lines(clock, capsys):
  with Progress("set") as shown:  # The standard error of a test is no terminal.
    clock["now"] = 60.0
    shown.show(1, 8, "frame 1/2")  # After the compilation.
    clock["now"] = 80.0
    shown.show(2, 8, "frame 1/2")
    clock["now"] = 81.0
    shown.show(3, 8, "frame 1/2")  # Too soon after the last line.
  assert capsys.readouterr().err == "frame 1/2: 1/8 set\nframe 1/2: 2/8 set, 0.05 set/s, 0:02:00 left\n"


def test_bytes_are_scaled(clock):
  shown, unknown = Progress("B", 4_000_000_000), Progress("clip")
  for bar in (shown, unknown):
    bar.show(500_000_000)
  clock["now"] += 5.0
  for bar in (shown, unknown):
    bar.show(1_000_000_000)
  assert shown.line("vae") == "vae: 1.00G/4.00G B, 100M B/s, 0:00:30 left"
  assert unknown.line("") == "1e+09 clip, 1e+08 clip/s"


def test_a_stop_in_between_is_forgotten(clock):
  pace = Pace()
  for done in range(10, 130):
    clock["now"] += 1000.0 if done < 12 else 2.0
    pace.add(done)
  assert (pace.rate, pace.left(629)) == (0.5, "0:16:40 left")


def test_time_left_does_not_count_programs_that_compile_on_the_way(clock):
  pace, compilation = Pace(), "/jax/core/compile/backend_compile_duration"
  for done in range(1, 4):
    clock["now"] += 62.0
    jax.monitoring.record_event_duration_secs(compilation, 60.0)
    jax.monitoring.record_event_duration_secs("/jax/something/else", 60.0)
    pace.add(done)
  assert (pace.rate, pace.left(8)) == (0.5, "0:00:10 left")


def test_no_time_has_passed(clock):
  pace = Pace()
  pace.add(1)
  pace.add(2)
  assert pace.rate is None and pace.left(9) == ""


def test_a_bar_on_a_terminal(clock, monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr(progress.sys, "stderr", terminal)
  with Progress("set") as shown:
    for done in (1, 2, 3):
      clock["now"] += 100.0 if done == 1 else 2.0
      shown.show(done, 4, "frame 1")
  lines = terminal.getvalue().replace("\n", "\r").split("\r")
  assert any(line.startswith("frame 1:  75%|") and "| 3/4 set [" in line and ", 0.5 set/s, 0:00:02 left]" in line
             for line in lines), lines
  terminal.truncate(0)
  with Progress("clip") as unknown:
    unknown.show(3)
  assert "3 clip [" in terminal.getvalue() and "%" not in terminal.getvalue()
