"""What `launch.encode` and `launch.decode` share: which files they read and write, and the autoencoder."""

from collections.abc import Callable
from pathlib import Path

from absl import flags

from nova_jax import autoencoders
from nova_jax.checkpoints.components import VAE
from nova_jax.checkpoints.hub import part_folder
from nova_jax.checkpoints.model_folder import load_autoencoder
from nova_jax.pipeline.prompts import naming
from nova_jax.storage import as_path
from nova_jax.utils import compilation_cache
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_folder_writable
from nova_jax.utils.notes import tell

# Endings of files that may show the same clip as a video does, which is read before all of them; the best first.
_KINDS = ((".webp",), (".gif",), (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"))
_SHEET = "-sheet"  # Ends the name of a contact sheet, as `launch.sample` writes them beside clips.


def define(values: flags.FlagValues, source: str, output: str) -> None:
  """Define the flags of both commands, with the help of two of them."""
  flags.DEFINE_string("source", None, source, flag_values=values)
  flags.DEFINE_string("output", None, output, flag_values=values)
  flags.DEFINE_string(
      "autoencoder", None,
      "Autoencoder to use: folder of it or of a model, id on the Hugging Face hub, or one of "
      f"{', '.join(autoencoders.BUILT_IN)}.", flag_values=values)
  flags.DEFINE_enum(
      "dtype", "float32", ["float32", "bfloat16"], "Precision of the computation.", flag_values=values)
  flags.DEFINE_integer(
      "space_tile", None, "Side of the tiles, in latents, that frames are cut into: less memory, approximate. Default: "
      "no tiles.", lower_bound=4, flag_values=values)


def load(args: flags.FlagValues) -> autoencoders.Autoencoder:
  """Load --autoencoder."""
  compilation_cache.use(on_cpu=True)
  with naming("--autoencoder"):
    if args.autoencoder in autoencoders.BUILT_IN:
      return autoencoders.make_autoencoder(args.autoencoder)
    folder = part_folder(args.autoencoder, VAE)
    return load_autoencoder(str(folder), dtype=args.dtype, space_tile=args.space_tile)


def plan(args: flags.FlagValues, takes: Callable[[str], bool], *endings: str) -> list[tuple[Path, Path]]:
  """Return the files to read, and for each the path to write, without its ending.

  Of files that differ in their ending alone one is read, a video before those of `_KINDS`.

  Args:
    args: flags of the command.
    takes: function that says by its name whether a file of a folder is one to read.
    endings: of the files that are written.

  Raises:
    UserError: there are none, or two of one kind would be written to one.
  """
  source = as_path(args.source)
  if not source.exists():
    raise UserError(f"--source: there is no {source}")
  found = [source]
  if source.is_dir():
    found = sorted(path for path in source.iterdir() if path.is_file() and path.name[0] != "." and takes(path.name))
  if not found:
    raise UserError(f"--source: there is no file to read in {source}")
  targets = _one_each(found)
  output = check_folder_writable("output", args.output)
  there = {name for name in targets for ending in endings if (output / f"{name}{ending}").exists()}
  if there:
    tell(f"{len(there)} of {len(targets)} files are in {output} already, and stay as they are")
  # The stem may have dots, so that the ending that is put on replaces one of its own.
  return [(path, output / f"{name}.x") for name, path in targets.items() if name not in there]


def _one_each(found: list[Path]) -> dict[str, Path]:
  """Return the file to read by the name to write: of several of a name the best kind, and no sheets of other files."""
  named: dict[str, list[Path]] = {}
  for path in found:
    named.setdefault(path.stem, []).append(path)
  sheets = {name for name in named if name.endswith(_SHEET) and name.removesuffix(_SHEET) in named}
  if sheets:
    sheets |= {_SHEET[1:]} & named.keys()  # That of the whole folder.
  targets, left = {}, sum(len(named[name]) for name in sheets)
  for name, paths in named.items():
    if name in sheets:
      continue
    first, *others = sorted(paths, key=_kind)
    if others and _kind(first) == _kind(others[0]):
      raise UserError(f"--source: {first.name} and {others[0].name} would become one file; rename one")
    targets[name], left = first, left + len(others)
  if left:
    tell(f"{left} other files of the same clips are not read: of files of one name a video goes before webp, gif and "
         "pictures, and contact sheets are left out")
  return targets


def _kind(path: Path) -> int:
  """Return the place of a file's kind in `_KINDS`; what stands in none of them is a video."""
  return next((i for i, endings in enumerate(_KINDS, 1) if path.suffix.lower() in endings), 0)
