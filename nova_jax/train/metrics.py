"""What a run reports: lines on the terminal, JSON lines in `metrics.jsonl`, and TensorBoard.

A line holds means since the line before it (of the learning rate and of counts: the last value). Sums of a line not
yet written travel with the checkpoint. Invariant: after a restart the file ends equal to an uninterrupted one's, but
for `TIMINGS`.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorboardX

from nova_jax.files import write_atomically

TIMINGS = ("videos_per_sec", "model_flops_per_sec", "matmul_share", "data_wait_sec")
_LAST = ("learning_rate", "damaged_records")
_BAR_WIDTH = 24
_BAR_SECONDS = 0.2


class MetricLog:
  """Gathers metrics of steps and writes a line every `log_every` of them."""

  def __init__(
      self, workdir: Path, *, log_every: int, num_steps: int, first_step: int, sums: Mapping[str, Any], peak: float,
      enabled: bool = True,
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
    """
    self._log_every, self._num_steps, self._peak, self._enabled = log_every, num_steps, peak, enabled
    self._sums = {name: tuple(pair) for name, pair in sums.items()}
    self._reset_clock()
    self._started, self._first_step, self._bar_drawn = time.perf_counter(), first_step, 0.0
    if enabled:
      path = workdir / "metrics.jsonl"
      cut_lines(path, first_step)
      self._file = path.open("a", encoding="utf-8")
      self._board = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

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

  def add(self, step: int, stage: str, metrics: Mapping[str, float]) -> None:
    """Add the metrics of the step that made `step` steps done; write a line if it is time to."""
    for name, value in metrics.items():
      count, total = self._sums.get(name, (0, 0.0))
      self._sums[name] = (1, value) if name in _LAST else (count + 1, total + value)
    if step % self._log_every == 0 or step == self._num_steps:
      means = {name: total / count for name, (count, total) in self._sums.items()}
      self._sums = {}
      if self._enabled:
        self._write(step, stage, means | self._timings())
      self._reset_clock()
    elif self._enabled and sys.stdout.isatty():
      self._draw_bar(step)

  def close(self) -> None:
    """Flush and close the files."""
    if self._enabled:
      self._file.close()
      self._board.close()

  def _reset_clock(self) -> None:
    self._seconds = self._waited = self._flops = 0.0
    self._videos = self._timed_steps = 0

  def _timings(self) -> dict[str, float]:
    if not self._timed_steps:
      return {}
    rate = self._flops / self._seconds
    values = (self._videos / self._seconds, rate, rate / self._peak, self._waited / self._timed_steps)
    return dict(zip(TIMINGS, values))

  def _write(self, step: int, stage: str, values: Mapping[str, float]) -> None:
    self._file.write(json.dumps({"step": step, "stage": stage, **values}) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)
    self._board.flush()
    clear = "\r\x1b[K" if sys.stdout.isatty() else ""
    print(f"{clear}{_line(step, self._num_steps, stage, values)}, {self._time_left(step)}", flush=True)

  def _draw_bar(self, step: int) -> None:
    now = time.perf_counter()
    if now - self._bar_drawn < _BAR_SECONDS:
      return
    self._bar_drawn = now
    filled = _BAR_WIDTH * step // self._num_steps
    rate = (step - self._first_step) / (now - self._started)
    bar = "#" * filled + "." * (_BAR_WIDTH - filled)
    print(f"\r\x1b[K[{bar}] {step}/{self._num_steps}, {rate:.2f} steps/s, {self._time_left(step)}", end="", flush=True)

  def _time_left(self, step: int) -> str:
    per_step = (time.perf_counter() - self._started) / max(step - self._first_step, 1)
    seconds = round(per_step * (self._num_steps - step))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


def cut_lines(path: Path, last_step: int) -> None:
  """Cut the lines after `last_step`, and one that a kill left half-written."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
    try:
      if not line.endswith("\n") or json.loads(line)["step"] > last_step:
        break
    except ValueError:
      break
    kept.append(line)
  write_atomically(path, "".join(kept))


def _line(step: int, num_steps: int, stage: str, values: Mapping[str, float]) -> str:
  parts = [f"{stage} {step}/{num_steps}: loss {values['loss']:.4f}"]
  if "loss_t2i" in values:
    parts.append(f"t2i {values['loss_t2i']:.4f} + i2i {values['loss_i2i']:.4f}")
  parts.append(f"grad {values['grad_norm']:.3f}")
  parts.append(f"lr {values['learning_rate']:.2e}")
  if "videos_per_sec" in values:
    parts.append(f"{values['videos_per_sec']:.1f} videos/s")
    parts.append(f"{values['model_flops_per_sec'] / 1e9:.1f} GFLOP/s ({values['matmul_share']:.0%} of matmul peak)")
    parts.append(f"data {values['data_wait_sec'] * 1e3:.1f} ms")
  return ", ".join(parts)
