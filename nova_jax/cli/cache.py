"""Make a latent cache: encode videos and pictures once, so that training reads latents.

Example:
  python -m launch.cache --source clips --output caches/clips --config configs/cache.py

The source is a folder of videos and pictures with captions in .txt or .json files beside them, a table (.csv, .jsonl,
.json, .parquet), WebDataset tars or a TFDS dataset. The same command again continues where it stopped. Started on many
hosts that see source and output, it shares out the work among those that are there, however they come and go. What
can't be used is named in rejected.jsonl, and tried again with --retry_rejected.
"""

import os

from absl import flags

from nova_jax.cli import shares
from nova_jax.cli.common_flags import define_config
from nova_jax.cli.entry import Command
from nova_jax.config import CacheConfig
from nova_jax.storage import as_path
from nova_jax.utils.fields import from_dict
from nova_jax.utils.progress import Progress
from nova_jax.utils.terminal import command


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  define_config(values, "configs/cache.py")
  flags.DEFINE_string(
      "source", None, "Data to encode: a folder, a table, a tar, a folder of tars, or a TFDS dataset (FOLDER[:SPLIT]).",
      flag_values=values)
  flags.DEFINE_string("output", None, "Folder that the cache is written to.", flag_values=values)
  flags.DEFINE_integer(
      "num_workers", os.cpu_count(), "Number of processes that decode; with 0, the main process decodes.",
      lower_bound=0, flag_values=values)
  flags.DEFINE_bool(
      "retry_rejected", False, "Try again what earlier runs rejected, also in a finished cache.", flag_values=values)
  shares.define(values, "build the cache")


def main(args: flags.FlagValues) -> None:
  """Build the cache and say what it holds."""
  # Not at the top: each decoding process imports this file, and needs no JAX.
  from nova_jax.data.cache.build import build
  from nova_jax.data.cache.format import REJECTED, Counts
  from nova_jax.data.cache.inspect import describe
  from nova_jax.utils import compilation_cache

  host, num_hosts = shares.share(args)
  compilation_cache.use()
  print(f"encoding {args.source} into {args.output}", flush=True)
  with Progress("item") as progress:

    def show(done: int, total: int, counts: Counts) -> None:
      skipped = counts.too_short + counts.no_bucket
      progress.show(done, total, f"{counts.cached} cached, {skipped} skipped, {counts.rejected} rejected")

    output = as_path(args.output)  # `build` sees that it can be written to.
    manifest = build(
        args.source, output, from_dict(CacheConfig, args.config), host=host, num_hosts=num_hosts,
        num_workers=args.num_workers, retry_rejected=args.retry_rejected, progress=show)
  print(describe(manifest))
  print(f"next: {command('inspect')} --dataset {output} --sheet sheet.png")
  if manifest.counts.rejected:
    print(f"what could not be used, and why: {output / REJECTED}; when it is mended, add --retry_rejected")


COMMAND = Command(main, define_flags, required=("source", "output", "config"), own_chips=True)
