"""Timing: both sides in turn, so that whatever else the machine does hits both, and what the numbers mean.

Invariant: a side's first run is not counted, in which programs are compiled and memory is touched.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from nova_jax.sampling.flops import sample_flops
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.set_schedule import token_sets
from nova_jax.tools.versus_published.peer import Peer
from nova_jax.tools.versus_published.work import Run, Work, make_generation, make_training, visible_of
from nova_jax.train.flops import matmul_peak, train_flops
from nova_jax.utils.processor import processor_name

MAKERS = {"train": make_training, "generate": make_generation}
TITLES = {"train": "one training step", "generate": "one generation"}
APPROXIMATE = ("fast", "faster")  # Presets.


class TimeLeft:
  """Says whether there is time for more.

  Args:
    seconds: time from now on.
    clock: returns seconds.
  """

  def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic):
    self._clock, self._end = clock, clock() + seconds

  def is_enough(self, seconds: float) -> bool:
    """Whether something that takes so long would end in time."""
    return self._clock() + seconds <= self._end


def measure(
    work: Work, num_frames: int, frame_counts: Sequence[int], repeats: int, peer: Peer | None = None,
    show: Callable[[str], None] = print, left: TimeLeft | None = None,
) -> dict[str, Any]:
  """Time training and generation; print a line for each result, and return them all, times in ms.

  Args:
    work: what to time.
    num_frames: of the comparison.
    frame_counts: for the cost against frames.
    repeats: timed runs of each side.
    peer: the other side.
    show: takes a line.
    left: time for all; what it is too short for is left out, and said. None for no limit.
  """
  left = left or TimeLeft()
  peak = matmul_peak(work.model.dtype)
  results, expected = {"matmul_peak_flops": peak, "processor": processor_name()}, {}
  show(f"on {results['processor']}")
  for what, title in TITLES.items():
    start = time.perf_counter()
    sides = {"ours": ready(MAKERS[what](work, num_frames))}
    expected[what] = time.perf_counter() - start
    if what == "generate":
      sides |= {name: ready(make_generation(work, num_frames, name)) for name in APPROXIMATE}
    if peer is not None:
      sides["peer"] = functools.partial(peer.seconds, what, num_frames)
    times = alternate(sides, repeats, left)
    results[what] = result = {side: summary(each) for side, each in times.items()}
    if (number := len(times["ours"])) < repeats:
      show(f"{title}: {number} of {repeats} runs of each side, since there is no time for more")
    best = result["ours"]["best"]
    result["share_of_peak"] = operations(work, what, num_frames) / (best / 1000) / peak
    line = (f"{title}, {num_frames} frames: {best:.0f} ms (median {result['ours']['median']:.0f}), "
            f"{result['share_of_peak']:.0%} of the {peak / 1e9:.0f} GFLOP/s of matrix products")
    if peer is not None:
      result["ratio"] = result["peer"]["best"] / best
      line += f"; published code {result['peer']['best']:.0f} ms: {result['ratio']:.2f} times as fast"
    show(line)
    for name in APPROXIMATE if what == "generate" else ():
      show(approximate_line(result, name))
  for what in TITLES:
    per_frame = results[what]["ours"]["best"] / 1000 / num_frames
    results[what]["frames"] = cost_against_frames(work, what, frame_counts, show, left, (expected[what], per_frame))
  return results


def ready(run: Run) -> Callable[[], float]:
  """Compile what a run needs; return what times it."""
  run.warm_up()
  return lambda: seconds(run.once)


def approximate_line(result: dict[str, Any], preset: str) -> str:
  """Complete a preset's result by its ratios to the others, and return them as a line."""
  best = result[preset]["best"]
  result[preset]["gain"] = result["ours"]["best"] / best
  line = f"  preset {preset}: {best:.0f} ms, {result[preset]['gain']:.2f} times as fast as exact"
  if "peer" in result:
    result[preset]["ratio"] = result["peer"]["best"] / best
    line += f", {result[preset]['ratio']:.2f} times as fast as the published code"
  return line


def operations(work: Work, what: str, num_frames: int) -> float:
  """Return the floating-point operations of the work, by formula."""
  if what == "train":
    return train_flops(
        work.model, work.batch_size, num_frames, work.num_visible, work.loss_repeat, visible_of(work).least)
  sets = [(token_set.start, token_set.size) for token_set in token_sets(work.model.num_image_tokens, work.num_sets)]
  passes = Guidance(work.guidance_scale).num_passes
  return sample_flops(work.model, work.batch_size, num_frames, sets, work.num_steps, passes)


def cost_against_frames(
    work: Work, what: str, frame_counts: Sequence[int], show: Callable[[str], None], left: TimeLeft,
    expected: tuple[float, float] = (0.0, 0.0),
) -> dict[int, float]:
  """Return and print the time of a frame, in ms, for clips of several lengths, those that there is time for.

  `expected` are the seconds that it will take to compile, the first runs included, and those that a frame will.
  """
  costs = {}
  for done, num_frames in enumerate(frame_counts):
    prepare, per_frame = expected
    if not left.is_enough(prepare + per_frame * num_frames):
      show(f"  {what} {', '.join(map(str, frame_counts[done:]))} frames: left out, since there is no time")
      break
    run = MAKERS[what](work, num_frames)
    prepare = seconds(run.warm_up)
    costs[num_frames] = 1000 * seconds(run.once) / num_frames
    expected = prepare, costs[num_frames] / 1000
    first, flops = frame_counts[0], lambda n: operations(work, what, n) / n
    line = (f"  {what} {num_frames:2d} frames: {costs[num_frames]:.0f} ms a frame, "
            f"{costs[num_frames] / costs[first]:.2f} of that of {first} frames; "
            f"by operations {flops(num_frames) / flops(first):.2f}")
    show(line)
  return costs


def alternate(
    sides: dict[str, Callable[[], float]], repeats: int, left: TimeLeft | None = None
) -> dict[str, list[float]]:
  """Return the seconds of `repeats` runs of each side, taken in turn after one run that is not counted.

  If that takes longer than there is time, there are fewer, but at least one.
  """
  times = {side: [] for side in sides}
  for done in range(repeats + 1):
    if done > 1 and left is not None and not left.is_enough(sum(values[-1] for values in times.values())):
      break
    for side, run in sides.items():
      times[side].append(run())
  return {side: values[1:] for side, values in times.items()}


def summary(times: Sequence[float]) -> dict[str, float]:
  """Return best and median in ms."""
  return {"best": 1000 * min(times), "median": 1000 * statistics.median(times)}


def seconds(run: Callable[[], None]) -> float:
  """Return how long a run takes."""
  start = time.perf_counter()
  run()
  return time.perf_counter() - start
