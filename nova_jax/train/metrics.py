"""What a run reports: lines on the terminal, JSON lines in `metrics.jsonl`, and TensorBoard.

A line holds means since the line before it (of the learning rate, of counts and of evaluations: the last value). Sums
of a line not yet written travel with the checkpoint. Invariants: after a restart the file ends equal to an
uninterrupted one's, but for `TIMINGS`; what can't be written is said once and ends no training.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from nova_jax.storage import is_remote, upload
from nova_jax.utils.files import write_atomically
from nova_jax.utils.progress import Pace
from nova_jax.utils.terminal import say

_RATES = ("videos_per_sec", "model_flops_per_sec", "mfu", "data_wait_sec")
TIMINGS = (*_RATES, "spent")
_LAST = ("learning_rate", "damaged_records")
EVALUATED = "eval/"  # Begins the names of what held-out records have.
_BAR_WIDTH = 24
_BAR_SECONDS = 0.2


class MetricLog:
  """Gathers metrics of steps and writes a line every `log_every` of them."""

  def __init__(
      self, workdir: Path, *, log_every: int, num_steps: int, first_step: int, sums: Mapping[str, Any], peak: float,
      enabled: bool = True, spent: Callable[[], dict[str, float]] = dict,
  ):
    """Open the files of `workdir` for a run that continues after `first_step`.

    Args:
      workdir: the run's folder.
      log_every: steps between lines.
      num_steps: of the whole run.
      first_step: steps done already; later lines are cut off the file.
      sums: what `state` returned when the checkpoint was saved.
      peak: FLOP/s of the machine.
      enabled: False on all processes but one: nothing is written.
      spent: function that returns how the time of this process was spent; lines of the file have it.
    """
    self._log_every, self._num_steps, self._peak, self._enabled = log_every, num_steps, peak, enabled
    self._spent = spent
    self._sums = {name: tuple(pair) for name, pair in sums.items()}
    self._reset_clock()
    self._pace, self._bar_drawn = Pace(), 0.0
    if enabled:
      path = workdir / "metrics.jsonl"
      dropped = cut_lines(path, first_step)
      if dropped:
        say(f"note: {path}: dropped {dropped} line{'s' * (dropped > 1)} that no training wrote")
      self._mirror = _Mirror(workdir)
      local = self._mirror.local
      self._file, self._board = _Lines(local / path.name), _Board(local / "tensorboard", first_step + 1)

  def state(self) -> dict[str, Any]:
    """Return the sums of the line in progress, for the checkpoint."""
    return dict(self._sums)

  def start_stage(self) -> None:
    """Forget unfinished sums: losses of images and of clips don't mix."""
    self._sums = {}
    self._reset_clock()

  def clock(self, seconds: float, waited: float, num_videos: int, flops: float) -> None:
    """Add one step's wall time, the part of it spent waiting for data, its clips and its model FLOPs."""
    self._seconds += seconds
    self._waited += waited
    self._videos += num_videos
    self._flops += flops
    self._timed_steps += 1

  def add(self, step: int, stage: str, metrics: Mapping[str, float]) -> dict[str, float] | None:
    """Add the metrics of the step that made `step` steps done; write a line if it is time to, and return its values."""
    self._pace.add(step)
    for name, value in metrics.items():
      count, total = self._sums.get(name, (0, 0.0))
      last = name in _LAST or name.startswith(EVALUATED)
      self._sums[name] = (1, value) if last else (count + 1, total + value)
    if step % self._log_every == 0 or step == self._num_steps:
      means = {name: total / count for name, (count, total) in self._sums.items()}
      self._sums = {}
      values = means | self._timings()
      if self._enabled:
        self._write(step, stage, values)
      self._reset_clock()
      return values
    if self._enabled and sys.stdout.isatty():
      self._draw_bar(step)
    return None

  def close(self) -> None:
    """Close the files.

    Raises:
      OSError: there are lines that could not be written.
    """
    if self._enabled:
      self._board.close()
      self._file.close()
      self._mirror.close()

  def _reset_clock(self) -> None:
    self._seconds = self._waited = self._flops = 0.0
    self._videos = self._timed_steps = 0

  def _timings(self) -> dict[str, float]:
    if not self._timed_steps:
      return {}
    rate = self._flops / self._seconds
    values = (self._videos / self._seconds, rate, rate / self._peak, self._waited / self._timed_steps)
    return dict(zip(_RATES, values, strict=True))

  def _write(self, step: int, stage: str, values: Mapping[str, float]) -> None:
    self._file.add(json.dumps({"step": step, "stage": stage, **values, "spent": self._spent()}) + "\n")
    self._board.add(step, values)
    self._mirror.send()
    clear = "\r\x1b[K" if sys.stdout.isatty() else ""
    say(f"{clear}{_line(step, self._num_steps, stage, values)}{self._time_left()}")

  def _draw_bar(self, step: int) -> None:
    now = time.perf_counter()
    if now - self._bar_drawn < _BAR_SECONDS:
      return
    self._bar_drawn = now
    filled = _BAR_WIDTH * step // self._num_steps
    rate = f", {self._pace.rate:.2f} steps/s" if self._pace.rate else ""
    bar = "#" * filled + "." * (_BAR_WIDTH - filled)
    say(f"\r\x1b[K[{bar}] {step}/{self._num_steps}{rate}{self._time_left()}", end="")

  def _time_left(self) -> str:
    left = self._pace.left(self._num_steps)
    return f", {left}" if left else ""


class _Mirror:
  """The folder in which log files are written: the workdir, or a local one whose files are sent to it in a bucket.

  An object can't be appended to. What can't be sent waits for the next line, like lines for a full disk.
  """

  def __init__(self, workdir: Path):
    self.local, self._workdir, self._folder, self._error = workdir, workdir, None, None
    self._sent: dict[Path, int] = {}
    if is_remote(workdir):
      self._folder = tempfile.TemporaryDirectory(prefix="nova_jax-")
      self.local = Path(self._folder.name)
      with contextlib.suppress(FileNotFoundError):
        (self.local / "metrics.jsonl").write_bytes((workdir / "metrics.jsonl").read_bytes())

  def send(self) -> None:
    """Upload the files that grew."""
    if self._folder is None:
      return
    try:
      for path in sorted(path for path in self.local.rglob("*") if path.is_file()):
        size = path.stat().st_size
        if self._sent.get(path) != size:
          upload(path, self._workdir / path.relative_to(self.local))
          self._sent[path] = size
    except OSError as error:
      if self._error is None:
        say(f"note: {self._workdir}: metrics can't be uploaded ({error.strerror}); training goes on, and they wait")
      self._error = error
    else:
      self._error = None

  def close(self) -> None:
    """Upload what is left; errors as of `MetricLog.close`."""
    self.send()
    if self._folder is not None:
      self._folder.cleanup()
    if self._error is not None:
      raise OSError(self._error.errno, f"{self._error.strerror}; its last lines are lost", self._error.filename)


class _Lines:
  """Appends lines to a file; those that could not be written wait for the next one."""

  def __init__(self, path: Path):
    self._path, self._unwritten, self._error = path, b"", None
    with path.open("ab") as file:
      self._size = file.tell()

  def add(self, line: str) -> None:
    self._unwritten += line.encode()
    try:
      with self._path.open("r+b") as file:
        file.truncate(self._size)  # Half a line, if the disk was full.
        file.seek(self._size)
        file.write(self._unwritten)
    except OSError as error:
      if self._error is None:
        say(f"note: {self._path} can't be written ({error.strerror}); training goes on, and its lines wait")
      self._error = error
    else:
      self._size, self._unwritten, self._error = self._size + len(self._unwritten), b"", None

  def close(self) -> None:
    if self._unwritten:
      self.add("")
    if self._error is not None:
      raise OSError(self._error.errno, f"{self._error.strerror}; its last lines are lost", str(self._path))


class _Board:
  """Writes TensorBoard's events in this thread: the library's own one would die of an error, and calls wait for it."""

  def __init__(self, folder: Path, purge_step: int):
    folder.mkdir(exist_ok=True)
    self._folder, self._writer = folder, EventsWriter(str(folder / "events"))
    # TensorBoard forgets what an earlier process wrote for this step and later ones.
    self._write([Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START))])

  def add(self, step: int, values: Mapping[str, float]) -> None:
    self._write([
        Event(wall_time=time.time(), step=step, summary=scalar(name, value)) for name, value in values.items()])

  def close(self) -> None:
    self._write([])
    if self._writer is not None:
      self._writer.close()

  def _write(self, events: list[Event]) -> None:
    if self._writer is None:
      return
    try:
      for event in events:
        self._writer.write_event(event)
      self._writer.flush()
    except OSError as error:
      self._writer = None
      say(f"note: {self._folder} can't be written ({error.strerror}); training goes on without TensorBoard")


def cut_lines(path: Path, last_step: int) -> int:
  """Cut the lines after `last_step`, one that a kill left half-written, and any that are no record of a step.

  Returns:
    The number of whole lines that are no record of a step.
  """
  if not path.exists():
    return 0
  content = path.read_bytes()
  kept, dropped = [], 0
  for line in content.splitlines(keepends=True):
    step = _step(line)
    dropped += step is None and line.endswith(b"\n")
    if step is not None and step <= last_step and line.endswith(b"\n"):
      kept.append(line)
  if b"".join(kept) != content:  # Else nothing needs room on the disk.
    write_atomically(path, b"".join(kept))
  return dropped


def _step(line: bytes) -> int | None:
  try:
    step = json.loads(line)["step"]
  except (ValueError, RecursionError, KeyError, TypeError, IndexError):
    return None
  return step if type(step) is int else None


def _line(step: int, num_steps: int, stage: str, values: Mapping[str, float]) -> str:
  parts = [f"{stage} {step}/{num_steps}: loss {values['loss']:.4f}"]
  if "loss_t2i" in values:
    parts.append(f"t2i {values['loss_t2i']:.4f} + i2i {values['loss_i2i']:.4f}")
  if f"{EVALUATED}loss" in values:
    parts.append(f"held out {values[f'{EVALUATED}loss']:.4f} (average {values[f'{EVALUATED}ema_loss']:.4f})")
  parts.append(f"grad {values['grad_norm']:.3f}")
  parts.append(f"lr {values['learning_rate']:.2e}")
  if "videos_per_sec" in values:
    parts.append(f"{values['videos_per_sec']:.1f} videos/s")
    parts.append(f"{values['model_flops_per_sec'] / 1e9:.1f} GFLOP/s ({values['mfu']:.0%} MFU)")
    parts.append(f"data {values['data_wait_sec'] * 1e3:.1f} ms")
  return ", ".join(parts)
