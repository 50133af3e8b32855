"""What a log says of long work."""

from nova_jax import progress
from nova_jax.progress import Progress


def test_lines(monkeypatch, capsys):
  now = 0.0
  monkeypatch.setattr(progress.time, "monotonic", lambda: now)
  with Progress("set") as shown:  # The standard error of a test is no terminal.
    shown.show(1, 8, "frame 1/2")
    now = 20.0
    shown.show(2, 8, "frame 1/2")
    now = 21.0
    shown.show(3, 8, "frame 1/2")  # Too soon after the last line.
  assert capsys.readouterr().err == "frame 1/2: 2/8 set, 0.1 set/s, 0:01:00 left\n"


def test_bytes_are_scaled():
  shown = Progress("B", 4_000_000_000)
  shown.show(1_000_000_000)
  assert shown.line("vae", 10.0) == "vae: 1.00G/4.00G B, 100M B/s, 0:00:30 left"
  unknown = Progress("clip")
  unknown.show(3)
  assert unknown.line("", 2.0) == "3 clip, 1.5 clip/s"
