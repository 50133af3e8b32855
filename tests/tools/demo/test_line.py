"""The line of those who wait, the space on the disk, and who is let in."""

import os

import pytest

from nova_jax.tools.demo import line as line_lib
from nova_jax.tools.demo.line import Line
from nova_jax.tools.demo.space import make_room
from nova_jax.tools.demo.users import is_loopback, read_users


@pytest.fixture
def clock(monkeypatch):
  clock = {"now": 0.0}
  monkeypatch.setattr(line_lib.time, "monotonic", lambda: clock["now"])
  return clock


def test_first_come_first_served():
  line = Line(longest=3, each=2, seconds=10.0)
  with line.join("a") as first:
    with line.join("b") as second, line.join("a") as third:
      assert [first.before(), second.before(), third.before()] == [0, 1, 2]
      with pytest.raises(ValueError, match="all 3 places are taken"), line.join("c"):
        pass
    assert first.before() == 0
    with line.join("a") as fourth:
      with pytest.raises(ValueError, match="waiting for 2 already"), line.join("a"):
        pass
      with line.join("b") as other:
        assert (fourth.before(), other.before()) == (1, 2)
  with line.join("b") as alone:
    assert alone.before() == 0


def test_whoever_is_gone_is_forgotten(clock):
  line = Line(longest=2, each=2, seconds=100.0)
  with line.join("a") as served, line.join("b") as gone:
    assert served.before() == 0
    clock["now"] = 150.0  # The one that is served needs no look as long as it may be served.
    with line.join("c") as last:
      assert (last.before(), served.before()) == (1, 0)
    with pytest.raises(ValueError, match="was forgotten"):
      gone.before()
    clock["now"] = 1000.0
    with line.join("c") as last:
      assert last.before() == 0


def test_the_oldest_files_go(tmp_path):
  names = ["000-one-00000000.mp4", "inputs/0000.png", "uploads/ab/new.png", "001-two-11111111.png", "notes.txt",
           "inputs/.hidden.png"]
  for age, name in enumerate(names):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 100)
    os.utime(path, (age, age))
  left = lambda: [name for name in names if (tmp_path / name).exists()]
  make_room(tmp_path, 400)
  assert left() == names
  make_room(tmp_path, 250)
  assert left() == names[2:]
  make_room(tmp_path, 0)
  assert left() == names[3:], "the newest stays, and what is not the demo's"


def test_users(tmp_path):
  file = tmp_path / "users"
  file.write_text("# us\n\nann:a:b\r\nbob: c\n", encoding="utf-8-sig")
  assert read_users(file) == [("ann", "a:b"), ("bob", " c")]


@pytest.mark.parametrize("text, message", [
    ("ann\n", ":1: expected NAME:PASSWORD"), ("ann:\n", ":1: expected"), (":x\n", ":1: expected"),
    ("ann:a\nann:b\n", ":2: ann has a password already"), ("# none\n", "has no NAME:PASSWORD"),
    (b"\xff:x", "is not UTF-8 text")])
def test_users_that_are_refused(tmp_path, text, message):
  file = tmp_path / "users"
  file.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(ValueError, match=message):
    read_users(file)


@pytest.mark.parametrize("host, alone", [
    ("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("192.168.0.7", False), ("a", False)])
def test_who_can_reach_an_address(host, alone):
  assert is_loopback(host) == alone
