"""Notes: in Python by logging, and on a command line once each."""

import logging

import pytest

from nova_jax.utils import notes, terminal


@pytest.fixture
def log():
  log = logging.getLogger("nova_jax")
  before = log.handlers, log.propagate, log.level, log.root.level
  yield log
  log.handlers, log.propagate = before[:2]
  log.setLevel(before[2])
  log.root.setLevel(before[3])


def test_a_launcher_prints_each_once_whatever_is_hidden_of_other_logs(log, capsys):
  log.root.setLevel(logging.ERROR)
  notes.print_once()
  for _ in range(2):
    notes.tell("a prompt was cut: 100%")
  notes.tell("another")
  assert capsys.readouterr().err == "note: a prompt was cut: 100%\nnote: another\n"


def test_python_logs_them(caplog):
  notes.tell("a prompt was cut")
  assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", "a prompt was cut")]


def test_a_library_logs_what_a_command_prints(monkeypatch, caplog, capsys):
  monkeypatch.setattr(terminal, "_prints", False)
  with caplog.at_level(logging.INFO, "nova_jax"):
    terminal.say("step 10")
    terminal.say("[##..]", end="")
  assert [record.getMessage() for record in caplog.records] == ["step 10"] and not capsys.readouterr().out
  terminal.print_lines()
  terminal.say("step 20")
  assert capsys.readouterr().out == "step 20\n"
