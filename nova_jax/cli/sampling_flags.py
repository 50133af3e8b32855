"""The flags of `launch.sample`, and the settings that they stand for.

The flags of settings are derived from their declarations (`pipeline/request.py`). A setting comes from the line of a
prompts file, else from its flag, else from its preset, else from the model.
"""

from collections.abc import Iterable
from typing import Any

import jax
from absl import flags

from nova_jax.cli import shares
from nova_jax.cli.checkpoint_flags import define_checkpoint, define_step, define_weights
from nova_jax.cli.common_flags import define_compilation_cache
from nova_jax.cli.renamed_flags import define_renamed
from nova_jax.config import MeshConfig
from nova_jax.models import quantization
from nova_jax.pipeline.file_settings import KINDS, read_box
from nova_jax.pipeline.prompts import expand, read_named
from nova_jax.pipeline.provenance import FORMATS
from nova_jax.pipeline.request import SETTINGS
from nova_jax.utils.errors import UserError
from nova_jax.utils.text_files import is_blank

# Settings with flags, and the names of these; a prompt, a class and a seed make clips, and have flags of another kind.
NAMES = {name: SETTINGS[name].flag or name for name in KINDS}
_MAKE_CLIPS = ("prompt", "label", "seed")
COMMON = tuple(name for name in KINDS if name not in _MAKE_CLIPS)


def define_settings(names: Iterable[str], values: flags.FlagValues) -> None:
  """Define a flag for each of some settings, without a default: what is left out is decided by `Request`."""
  defined = NAMES if set(names) >= set(COMMON) else {name: NAMES[name] for name in names}
  for name in names:
    declared, options = SETTINGS[name], {"flag_values": values}
    flag, text = NAMES[name], declared.describe(defined)
    if declared.choices:
      flags.DEFINE_enum(flag, None, declared.choices, text, **options)
    elif declared.kind is int:
      flags.DEFINE_integer(flag, None, text, **options)
    elif declared.kind is float:
      flags.DEFINE_float(flag, None, text, **options)
    elif declared.kind is list:
      flags.DEFINE_list(flag, None, text, **options)
    elif declared.kind is dict:
      text = f"{text} Written FRAME:PROMPT, with frames counted from 0; repeat the flag for several."
      flags.DEFINE_multi_string(flag, None, text, **options)
    else:
      flags.DEFINE_string(flag, None, text, **options)


def define_model_flags(values: flags.FlagValues) -> None:
  """Define the flags that say how a model is loaded."""
  define_weights(values)
  flags.DEFINE_enum(
      "dtype", "float32", ["float32", "bfloat16"], "Precision of the activations; bfloat16 is faster on accelerators.",
      flag_values=values)
  define_lora(values)
  flags.DEFINE_string(
      "guide", None, "Weaker model that guides in place of the unconditional passes: params or other weights of the "
      "same training run, or a model as --checkpoint takes it.", flag_values=values)
  flags.DEFINE_multi_string(
      "quantize", None, f"Part whose matrices are stored in 8 bits, PART=KIND: {' or '.join(quantization.TARGETS)}, "
      f"and {' or '.join(quantization.KINDS)}, such as text_encoder=int8. It saves memory, and is approximate. "
      "Separate several by commas, or repeat the flag.", flag_values=values)


def define_lora(values: flags.FlagValues) -> None:
  """Define the flag that adds LoRAs to a model."""
  flags.DEFINE_multi_string(
      "lora", None, "Folder of a LoRA to add to the model, and behind a colon its weight, such as loras/fox:0.8. "
      "Default: a weight of 1. Repeat the flag for several.", flag_values=values)


def loras(args: flags.FlagValues) -> dict[str, float]:
  """Return the weight of each LoRA by its folder.

  Raises:
    UserError: a weight that is no number, or a folder that is named twice.
  """
  found: dict[str, float] = {}
  for text in args.lora or ():
    folder, colon, weight = text.rpartition(":")
    if not colon or weight.startswith("//"):  # The colon of gs://bucket.
      folder, weight = text, "1"
    try:
      value = float(weight)
    except ValueError:
      raise UserError(f"--lora: expected FOLDER or FOLDER:WEIGHT such as loras/fox:0.8, got {text!r}") from None
    if folder in found:
      raise UserError(f"--lora: {folder} is there twice; give each folder once")
    found[folder] = value
  return found


def define_flags(values: flags.FlagValues) -> None:
  """Define all flags of the command that samples."""
  options = {"flag_values": values}
  define_checkpoint(values)
  define_step(values)
  flags.DEFINE_string("output", "out", "Folder that clips and pictures are written to.", **options)
  flags.DEFINE_multi_string(
      "prompt", None, "Text that says what to show; repeat the flag for several clips.", **options)
  flags.DEFINE_multi_integer(
      "label", None, "Number of the class to show, for a class-conditional model; repeat the flag for several clips.",
      **options)
  flags.DEFINE_string(
      "prompts", None, "File of prompts, one a line: .txt, or .csv, .jsonl or .json with settings of each line.",
      **options)
  define_settings(COMMON, values)
  flags.DEFINE_integer(
      "seed", 0, "Seed of the first clip; clip number i, counted from 0, has the seed plus i.", **options)
  flags.DEFINE_list(
      "formats", ["mp4", "gif", "sheet"], f"Formats to write, some of {', '.join(FORMATS)}. A single picture is "
      "written as png in place of mp4 and gif, clips are no png, and latents must stand alone.", **options)
  flags.DEFINE_integer(
      "batch_size", 8, "Number of clips that are generated together, at most.", lower_bound=1, **options)
  flags.DEFINE_string(
      "reproduce", None, "File that an earlier run wrote; it is made again, with the settings that it names.",
      **options)
  define_model_flags(values)
  flags.DEFINE_integer(
      "space_tile", None,
      "Side of the tiles, in latents, that are decoded one by one: less memory, approximate. Default: no tiles.",
      **options)
  flags.DEFINE_bool(
      "free_text_encoder", False,
      "Whether to embed all prompts first, and free the memory of the text encoder before the model loads.", **options)
  shares.define(values, "make the clips")
  flags.DEFINE_bool("all_devices", False, "Whether to spread each batch over all devices of this machine.", **options)
  flags.DEFINE_bool(
      "compile_only", False, "Whether to compile the programs that these prompts need, keep them, and end.", **options)
  define_compilation_cache(values)
  for old, new in (("then", "prompt_at"), ("place", "outpaint_box"), ("warmup", "compile_only"),
                   ("low_memory", "free_text_encoder")):
    define_renamed(old, new, values)


def quantize(args: flags.FlagValues) -> dict[str, str]:
  """Return the numbers that matrices are stored in, by part.

  Raises:
    UserError: a part without a kind, or one that is named twice.
  """
  found: dict[str, str] = {}
  for text in ",".join(args.quantize or ()).split(",") if args.quantize else ():
    part, equals, kind = text.partition("=")
    if not equals or part in found:
      raise UserError(f"--quantize: expected PART=KIND such as text_encoder=int8, each part once, got {text!r}")
    found[part] = kind
  return found


def given_settings(args: flags.FlagValues, names: Iterable[str] = COMMON) -> dict[str, Any]:
  """Return the settings that flags say.

  Raises:
    UserError: a flag can't be read; it is named.
  """
  given = {name: getattr(args, NAMES[name]) for name in names}
  given = {name: value for name, value in given.items() if value is not None and (
      value or SETTINGS[name].kind in (str, int, float))}
  if "later_prompts" in given:
    texts, given["later_prompts"] = given["later_prompts"], dict(map(_prompt_at, given["later_prompts"]))
    if len(given["later_prompts"]) < len(texts):
      raise UserError(f"--prompt_at: expected one prompt a frame, got {', '.join(map(repr, texts))}")
  if "mask" in given:
    given["mask"] = read_box(given["mask"])
  if "outpaint_box" in given:
    given["outpaint_box"] = [int(side) if side.strip().isdecimal() else side for side in given["outpaint_box"]]
  return given


def clips(args: flags.FlagValues) -> tuple[list[dict[str, Any]], list[str]]:
  """Return the settings of each clip, and the line of a file that each stands in; "" for the command line.

  Raises:
    UserError: nothing to make, or a setting that no model can do.
  """
  lines = [{"prompt": prompt} for prompt in args.prompt or []] + [{"label": label} for label in args.label or []]
  if any(map(is_blank, args.prompt or [])):
    raise UserError("--prompt: it is empty; say what to show")
  named = read_named(args.prompts) if args.prompts else []
  places = [""] * len(lines) + [place for place, _ in named]
  lines += [settings for _, settings in named]
  if not lines:
    raise UserError("--prompt: say what to show (of a class-conditional model, --label), or --prompts FILE")
  return expand(lines, given_settings(args), args.seed, places)


def check_alone(args: flags.FlagValues) -> None:
  """Refuse settings beside --reproduce, which would not be heard."""
  model = ("weights", "dtype", "lora", "quantize", "guide", "space_tile")
  for name in ("prompts", *NAMES.values(), "batch_size", *model):
    if args[name].present:
      raise UserError(f"--{name}: an output that is made again brings its own settings; leave it out")


def formats(args: flags.FlagValues) -> tuple[str, ...]:
  """Return the formats to write."""
  for name in args.formats:
    if name not in FORMATS:
      raise UserError(f"--formats: expected some of {', '.join(FORMATS)}, got {name!r}")
  if not args.formats:
    raise UserError(f"--formats: expected at least one of {', '.join(FORMATS)}, got none")
  if "latents" in args.formats and len(args.formats) > 1:
    raise UserError(f"--formats: latents must stand alone, got {','.join(args.formats)}; write them apart")
  return tuple(args.formats)


def mesh(args: flags.FlagValues) -> MeshConfig | None:
  """Return how samples are spread over devices."""
  return MeshConfig(data=len(jax.local_devices()), fsdp=1) if args.all_devices else None


def _prompt_at(text: str) -> tuple[int, str]:
  frame, colon, prompt = text.partition(":")
  if not colon or not frame.strip().isdecimal() or not prompt.strip():
    raise UserError(f"--prompt_at: expected FRAME:PROMPT such as '8:the digit seven moves up', got {text!r}")
  return int(frame), prompt.strip()
