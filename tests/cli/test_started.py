"""What commands say of the time that they took."""

import time
from pathlib import Path

import pytest

from nova_jax.cli.started import seconds_since_start


def test_the_imports_count():
  first = seconds_since_start()
  assert time.process_time() / 64 < first <= seconds_since_start(), "the interpreter's own start, and all after it"


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="without /proc both times are the same, which this test tells apart")
def test_a_system_that_does_not_say(monkeypatch):
  def missing(*_, **__):
    raise FileNotFoundError("/proc/self/stat")

  whole = seconds_since_start()
  monkeypatch.setattr(Path, "read_text", missing)
  assert 0 < seconds_since_start() < whole
