"""Convert a model between the published format and ours.

Example:
  python -m launch.convert --source BAAI/nova-d48w768-sdxl1024 --target models/nova

A published (diffusers-style) folder becomes ours, with its weights in Orbax. A converted folder or the workdir of a
training run becomes a published one. The direction follows from what --source is.
"""

import time

from absl import flags

from nova_jax.checkpoints.components import PARTS
from nova_jax.checkpoints.convert import CODES, convert
from nova_jax.checkpoints.published_files import INDEX
from nova_jax.cli.checkpoint_step import define_step, define_weights, step
from nova_jax.cli.entry import Command
from nova_jax.storage import as_path
from nova_jax.utils.notes import tell
from nova_jax.utils.progress import Progress
from nova_jax.utils.terminal import command


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string(
      "source", None,
      "Model to convert: a published folder (all of it or one part), a converted one, the workdir of a training run, "
      "or an id on the Hugging Face hub.",
      flag_values=values)
  flags.DEFINE_string("target", None, "Folder to write; it must not exist yet.", flag_values=values)
  flags.DEFINE_list(
      "parts", None, f"Parts to convert, some of {', '.join(PARTS)}. Default: all that --source has.",
      flag_values=values)
  flags.DEFINE_enum(
      "dtype", None, list(CODES), "Precision of the weights that are written. Default: that of --source.",
      flag_values=values)
  flags.DEFINE_string(
      "base", None, "Model that supplies the parts that --source lacks: a folder, or an id on the Hugging Face hub.",
      flag_values=values)
  define_weights(values)
  define_step(values)


def main(args: flags.FlagValues) -> None:
  """Convert --source to --target."""
  started = time.perf_counter()
  print(f"reading {args.source}", flush=True)
  with Progress("B") as bar:
    notes = convert(
        args.source, args.target, parts=args.parts, dtype=args.dtype, base=args.base, weights=args.weights,
        step=step(args), progress=lambda part, done, total: bar.show(done, total, part))
  for note in notes:
    tell(note)
  print(f"wrote {args.target} in {time.perf_counter() - started:.1f} s")
  if (as_path(args.target) / INDEX).is_file():
    print(f'next: {command("sample")} --checkpoint {args.target} --output out --prompt "what to show"')


COMMAND = Command(main, define_flags, required=("source", "target"))
