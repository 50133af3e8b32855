"""Notes: in Python by logging, and on a command line once each."""

import logging

import pytest

from nova_jax.utils import notes


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
