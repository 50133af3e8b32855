"""Does the loader keep up with the pod? `python -m benchmarks.data_loading [--num_workers 2] [--chip v5e]`.

For each stage of a released model's config, a cache of records of its shape is written to a temporary folder, and read
as one host of the pod reads it: its rows of each batch, with sampling, conversion and text embeddings. Beside it stands
what the training step consumes at most, were it bound by the chip's peak FLOP/s alone; a real step is slower. The
ratio is how many times faster the loader is; without workers, records a CPU-second are what one free core gives. Files
are in the machine's page cache when they are read.
"""

import importlib
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from nova_jax.cli import Command
from nova_jax.config import DataConfig, Experiment, StageConfig
from nova_jax.data.cache.format import AutoencoderInfo, TextEncoderInfo, read_manifest, write_cache
from nova_jax.data.cache.records import Record
from nova_jax.data.latents import LatentFeed
from nova_jax.data.loader import Loader
from nova_jax.data.shards import Cache
from nova_jax.tools.aot.pods import TOPOLOGIES
from nova_jax.tools.aot.topology import parse_topology
from nova_jax.train.flops import executed_flops
from nova_jax.utils.chips import CHIPS
from nova_jax.utils.fields import from_dict

# Chips that one host of a pod feeds (the Cloud TPU page of each version).
CHIPS_A_HOST = {"v4": 4, "v5e": 4, "v5p": 4, "v6e": 4, "tpu7x": 4}
TOKENS = 64  # Of a caption.
RECORDS = 64


def consumed(experiment: Experiment, stage: StageConfig, chip: str, num_chips: int) -> float:
  """Return the records a second that a host's chips learn from, if nothing but their peak bounds them."""
  visible = round((1 - sum(experiment.train.mask_ratio) / 2) * experiment.model.num_image_tokens)
  flops = executed_flops(
      experiment.model, stage.batch_size, stage.num_frames, visible, experiment.train.loss_repeat)
  seconds = flops / (num_chips * CHIPS[chip].devices * CHIPS[chip].flops)
  return stage.batch_size / seconds / (num_chips / CHIPS_A_HOST[chip])


def write(folder: Path, experiment: Experiment, stage: StageConfig) -> Cache:
  """Write records of the stage's shape, with values like moments'."""
  model, rng = experiment.model, np.random.default_rng(0)
  shape = (stage.num_frames, *model.latent_size, 2 * model.latent_dim)
  records = [
      Record(
          rng.standard_normal(shape, np.float32).astype(np.float16), "a caption", text_embeds=rng.standard_normal(
              (TOKENS, model.text_dim), np.float32).astype(np.float16), fps=12.0, motion_flow=5.0)
      for _ in range(RECORDS)]
  bucket = (stage.num_frames, *(8 * side for side in model.latent_size))
  autoencoder = AutoencoderInfo("benchmark", "0" * 64, model.latent_dim, 8, 4, (0.0,), (1.0,))
  write_cache(
      folder, [(bucket, record) for record in records], autoencoder,
      TextEncoderInfo("benchmark", "0" * 64, model.text_dim, model.text_len))
  return Cache(folder, 1.0, read_manifest(folder))


def measure(
    cache: Cache, experiment: Experiment, stage: StageConfig, rows: int, workers: int, seconds: float
) -> tuple[float, float]:
  """Return the records that a host's loader gives in a second, and in a second of this process's CPU time."""
  feed = LatentFeed(
      [cache], experiment.model, cache.manifest.autoencoder, None, DataConfig(), num_frames=stage.num_frames, seed=0)
  loader = Loader(feed, batch_size=stage.batch_size, rows=range(rows), num_workers=workers)
  for _ in range(4):  # Past what was read ahead.
    next(loader)
  started, cpu, count = time.perf_counter(), time.process_time(), 0
  while time.perf_counter() - started < seconds:
    next(loader)
    count += rows
  rates = count / (time.perf_counter() - started), count / (time.process_time() - cpu)
  loader.close()
  return rates


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_list(
      "models", ["nova_d48w1024_osp480", "nova_d48w1024_sd512", "nova_d48w768_sdxl1024"], "Configs.",
      flag_values=values)
  flags.DEFINE_enum("chip", "v5e", list(CHIPS), "Of the pod.", flag_values=values)
  flags.DEFINE_integer("num_workers", 0, "Loader processes.", lower_bound=0, flag_values=values)
  flags.DEFINE_float("seconds", 10.0, "How long each is read.", lower_bound=1, flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Print a line for each stage."""
  num_chips = parse_topology(TOPOLOGIES[args.chip]).num_chips
  hosts = num_chips // CHIPS_A_HOST[args.chip]
  print(f"{num_chips} {args.chip} chips, {hosts} hosts, {args.num_workers} workers")
  columns = ("MB a record", "rows a host", "loads/s", "MB/s", "needs/s", "ratio", "a CPU-s")
  print(f"{'model and stage':<32}" + "".join(f"{column:>12}" for column in columns))
  for name in args.models:
    experiment = from_dict(Experiment, importlib.import_module(f"configs.{name}").get_config(args.chip))
    for stage in experiment.train.stages:
      with tempfile.TemporaryDirectory() as folder:
        cache = write(Path(folder), experiment, stage)
        size = sum(shard.bytes for shard in cache.manifest.shards) / RECORDS / 1e6
        rows = max(1, stage.batch_size // hosts)
        rate, cpu_rate = measure(cache, experiment, stage, rows, args.num_workers, args.seconds)
      needed = consumed(experiment, stage, args.chip, num_chips)
      print(
          f"{name + ' ' + stage.name:<32}{size:>12.2f}{rows:>12}{rate:>12.1f}{rate * size:>12.0f}{needed:>12.2f}"
          f"{rate / needed:>12.1f}{'-' if args.num_workers else f'{cpu_rate:.1f}':>12}", flush=True)


if __name__ == "__main__":
  Command(main, define_flags).run()
