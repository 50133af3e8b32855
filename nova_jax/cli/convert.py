"""Convert a model between the published format and ours, and publish it on the Hugging Face hub.

Examples:
  python -m launch.convert --source BAAI/nova-d48w768-sdxl1024 --target models/nova
  python -m launch.convert --source runs/digits --target digits --push ORG/digits --license apache-2.0

A published (diffusers-style) folder becomes ours, with its weights in Orbax. A converted folder or the workdir of a
training run becomes a published one. The direction follows from what --source is. A model with --lora becomes a
published one, to whose weights the LoRA is added. Of a run that trained a LoRA, --parts=lora writes it alone. --push
uploads the new folder, or without --target the folder --source as it is.
"""

import time
from collections.abc import Mapping

from absl import flags

from nova_jax.checkpoints.components import PARTS
from nova_jax.checkpoints.convert import CODES, convert
from nova_jax.checkpoints.lora import base_folder, open_lora
from nova_jax.checkpoints.lora_export import write_lora
from nova_jax.checkpoints.published_files import INDEX
from nova_jax.cli import push_flags, sampling_flags
from nova_jax.cli.checkpoint_flags import define_step, define_weights, step
from nova_jax.cli.entry import Command
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.notes import tell
from nova_jax.utils.progress import Progress
from nova_jax.utils.terminal import command

LORA = "lora"  # Named like a part: the LoRA of a training run.


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string(
      "source", None,
      "Model to convert: a published folder (all of it or one part), a converted one, the workdir of a training run, "
      "or an id on the Hugging Face hub.", flag_values=values)
  flags.DEFINE_string(
      "target", None, "Folder to write; it must not exist yet. Needed, unless --push uploads --source itself.",
      flag_values=values)
  flags.DEFINE_list(
      "parts", None, f"Parts to convert, some of {', '.join(PARTS)}, or {LORA} alone. Default: all that --source has.",
      flag_values=values)
  flags.DEFINE_enum(
      "dtype", None, list(CODES), "Precision of the weights that are written. Default: that of --source.",
      flag_values=values)
  flags.DEFINE_string(
      "base", None, "Model that supplies the parts that --source lacks: a folder, or an id on the Hugging Face hub.",
      flag_values=values)
  define_weights(values)
  define_step(values)
  sampling_flags.define_lora(values)
  push_flags.define_push(values)


def main(args: flags.FlagValues) -> None:
  """Convert --source to --target, and push it."""
  push_flags.check(args)
  if not args.target and not args.push:
    raise UserError("--target is needed; --help says what it means")
  if not args.target and not args.source:
    raise UserError("--source is needed: the folder to push")
  source = _convert(args) if args.target else args.source
  if args.push:
    push_flags.push_folder(args, source)


def _convert(args: flags.FlagValues) -> str:
  """Write --target; return the model that it was made of."""
  started = time.perf_counter()
  loras = sampling_flags.loras(args)
  source = args.source or _base(loras)
  print(f"reading {source}", flush=True)
  if args.parts and LORA in args.parts:
    _write_lora(args, loras)
    print(f'next: {command("sample")} --checkpoint MODEL --lora {args.target} --output out --prompt "what to show"')
    return source
  with Progress("B") as bar:
    notes = convert(
        source, args.target, parts=args.parts, dtype=args.dtype, base=args.base, weights=args.weights,
        step=step(args), lora=loras, progress=lambda part, done, total: bar.show(done, total, part))
  for note in notes:
    tell(note)
  print(f"wrote {args.target} in {time.perf_counter() - started:.1f} s")
  if (as_path(args.target) / INDEX).is_file():
    print(f'next: {command("sample")} --checkpoint {args.target} --output out --prompt "what to show"')
  return source


def _base(loras: Mapping[str, float]) -> str:
  """Return the folder of the model that the first LoRA was trained for."""
  if not loras:
    raise UserError("--source is needed: the folder of the model to convert")
  lora = open_lora(next(iter(loras)))
  if lora.card is None:
    raise UserError(f"--source is needed: {lora.path} doesn't say which model it was trained for")
  return str(base_folder(lora.path, lora.card))


def _write_lora(args: flags.FlagValues, loras: Mapping[str, float]) -> None:
  if loras or len(args.parts) > 1 or args.dtype or args.base or not args.source:
    raise UserError("--parts=lora: it writes the LoRA of a training run alone; give --source and --target beside it")
  try:
    lora = open_lora(args.source, args.weights, step(args))
  except UserError as error:
    raise UserError(f"--source: {str(error).removeprefix('lora: ')}") from error
  write_lora(lora, args.target)
  print(f"wrote {args.target}, {sum(path.stat().st_size for path in as_path(args.target).iterdir()) / 1e6:.2f} MB")


COMMAND = Command(main, define_flags, own_chips=True)
