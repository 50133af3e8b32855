"""What a run reports: a line on the terminal every few steps, whose values go to the trackers as well.

A line holds means since the line before it (of the learning rate, of counts and of evaluations: the last value). Sums
of a line not yet written travel with the checkpoint. Invariant: after a restart the lines are those of an uninterrupted
run, but for `TIMINGS`.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nova_jax.config import EvalConfig
from nova_jax.train.stages import Stage, frames_until
from nova_jax.train.trackers import Line, Trackers
from nova_jax.utils.progress import Pace
from nova_jax.utils.terminal import say

_RATES = ("videos_per_sec", "model_flops_per_sec", "mfu", "data_wait_sec")
TIMINGS = (*_RATES, "spent")
_LAST = ("learning_rate", "damaged_records")
EVALUATED = "eval/"  # Begins the names of what held-out records have.
_BAR_WIDTH = 24
_BAR_SECONDS = 0.2


def higher_is_better(cfg: EvalConfig) -> bool:
  """Return whether the best value of `eval.best_metric` is the highest one."""
  of_digits = cfg.best_metric.startswith((f"{EVALUATED}digits/", f"{EVALUATED}two_digits/"))
  return cfg.best_is == "highest" or cfg.best_is == "auto" and of_digits


class MetricLog:
  """Gathers metrics of steps and writes a line every `log_every` of them."""

  def __init__(
      self, trackers: Trackers | None, *, log_every: int, stages: Sequence[Stage], sums: Mapping[str, Any], peak: float,
      spent: Callable[[], dict[str, float]] = dict,
  ):
    """Continue the log of a run.

    Args:
      trackers: trackers that get the lines; None in all processes but one, where nothing is written.
      log_every: steps between lines.
      stages: all stages of the run. The time that is left is reckoned by their frames.
      sums: what `state` returned when the checkpoint was saved.
      peak: FLOP/s of the machine.
      spent: function that returns how the time of this process was spent; trackers get it.
    """
    self._trackers, self._log_every, self._peak, self._spent = trackers, log_every, peak, spent
    self._stages, self._num_steps = stages, stages[-1].last
    self._sums = {name: tuple(pair) for name, pair in sums.items()}
    self._reset_clock()
    self._pace, self._bar_drawn = Pace(), 0.0

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
    self._pace.add(frames_until(self._stages, step))
    for name, value in metrics.items():
      count, total = self._sums.get(name, (0, 0.0))
      last = name in _LAST or name.startswith(EVALUATED)
      self._sums[name] = (1, value) if last else (count + 1, total + value)
    if step % self._log_every == 0 or step == self._num_steps:
      means = {name: total / count for name, (count, total) in self._sums.items()}
      self._sums = {}
      values = means | self._timings()
      if self._trackers is not None:
        self._trackers.line(Line(step, stage, values, self._spent()))
        clear = "\r\x1b[K" if sys.stdout.isatty() else ""
        say(f"{clear}{_line(step, self._num_steps, stage, values)}{self._time_left()}")
      self._reset_clock()
      return values
    if self._trackers is not None and sys.stdout.isatty():
      self._draw_bar(step)
    return None

  def picture(self, step: int, name: str, path: Path) -> None:
    """Show a picture, a PNG file, in the trackers that show pictures."""
    if self._trackers is not None:
      self._trackers.picture(step, name, path)

  def close(self) -> None:
    """Close the trackers.

    Raises:
      OSError: there are lines that could not be written.
    """
    if self._trackers is not None:
      self._trackers.close()

  def _reset_clock(self) -> None:
    self._seconds = self._waited = self._flops = 0.0
    self._videos = self._timed_steps = 0

  def _timings(self) -> dict[str, float]:
    if not self._timed_steps:
      return {}
    rate = self._flops / self._seconds
    values = (self._videos / self._seconds, rate, rate / self._peak, self._waited / self._timed_steps)
    return dict(zip(_RATES, values, strict=True))

  def _draw_bar(self, step: int) -> None:
    now = time.perf_counter()
    if now - self._bar_drawn < _BAR_SECONDS:
      return
    self._bar_drawn = now
    filled = _BAR_WIDTH * step // self._num_steps
    frames = frames_until(self._stages, step) - frames_until(self._stages, step - 1)
    rate = f", {self._pace.rate / frames:.2f} steps/s" if self._pace.rate else ""
    bar = "#" * filled + "." * (_BAR_WIDTH - filled)
    say(f"\r\x1b[K[{bar}] {step}/{self._num_steps}{rate}{self._time_left()}", end="")

  def _time_left(self) -> str:
    left = self._pace.left(frames_until(self._stages, self._num_steps))
    return f", {left}" if left else ""


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
