"""Look at a latent cache.

Example:
  python -m launch.inspect --dataset caches/clips --sheet sheet.png

It prints counts, buckets and sizes, and histograms of caption lengths and motion, and writes a contact sheet of decoded
clips. --verify reads every record and names the damaged ones by shard and index; if there are any, the exit code is
not 0.
"""


from absl import flags

from nova_jax.cli.entry import Command
from nova_jax.data.cache.format import read_manifest
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.progress import Progress


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("dataset", None, "Folder of the cache to look at.", flag_values=values)
  flags.DEFINE_bool("verify", False, "Whether to read every record and check every file.", flag_values=values)
  flags.DEFINE_integer(
      "records", 1000, "Number of records that histograms are made from, unless --verify reads all.", lower_bound=1,
      flag_values=values)
  flags.DEFINE_string("sheet", None, "PNG file to write, which shows clips with their captions.", flag_values=values)
  flags.DEFINE_integer("clips", 8, "Number of clips that --sheet shows.", lower_bound=1, flag_values=values)
  flags.DEFINE_string(
      "autoencoder", "",
      "Folder of the autoencoder that decodes clips for --sheet. Default: the one that made the cache.",
      flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Print, write and check."""
  from nova_jax.data.cache import inspect  # Not every installation has what it needs.

  folder = as_path(args.dataset)
  manifest = read_manifest(folder, check_shards=not args.verify)
  print(inspect.describe(manifest), flush=True)
  with Progress("record") as progress:
    found = inspect.survey(folder, manifest, None if args.verify else args.records, progress.show)
  print(f"{len(found.captions)} of {manifest.counts.cached} records read")
  for name, values in (
      ("characters of captions", found.captions), ("tokens of captions", found.tokens),
      ("motion", found.motion), ("frames a second", found.fps)):
    print(inspect.histogram(name, values), end="\n" if values else "")
  if args.sheet:
    titles = inspect.write_sheet(as_path(args.sheet), folder, manifest, args.clips, args.autoencoder)
    print("\n".join([f"{args.sheet}:", *titles]))
  for damage in found.damage:
    print(f"damaged: {damage}")
  if found.damage:
    raise UserError(f"{len(found.damage)} places in {folder} are damaged: restore these shards, or make it anew")
  if args.verify:
    print("all records and files are as they were written")


COMMAND = Command(main, define_flags, required=("dataset",), own_chips=True)
