"""The flags of `launch.sample`, and the settings that they stand for.

A setting comes from the line of a prompts file, else from its flag, else from the preset, else from the model.
"""

from typing import Any

import jax
from absl import flags

from nova_jax.config import MeshConfig
from nova_jax.pipeline.preflight import check_files
from nova_jax.pipeline.prompts import expand, read_named
from nova_jax.pipeline.provenance import FORMATS
from nova_jax.pipeline.request import CHOICES, PRESETS
from nova_jax.pipeline.settings import read_box
from nova_jax.utils.compilation_cache import DEFAULT
from nova_jax.utils.errors import UserError
from nova_jax.utils.text_files import is_blank


def _enum(name: str, default: str | None, text: str, flag_values: flags.FlagValues) -> None:
  flags.DEFINE_enum(name, default, CHOICES[name], text, flag_values=flag_values)


# Flags that are settings of `Request`: how to define them, and what they mean.
_SETTINGS = {
    "negative_prompt": (flags.DEFINE_string, "Text that says what the clips must not show."),
    "image": (
        flags.DEFINE_string, "Picture file that becomes the first frame; with --mask or --place, the picture to edit."),
    "video": (
        flags.DEFINE_string, "Video file that is continued from its end; with --mask or --place, the video to edit."),
    "context_frames": (
        flags.DEFINE_integer,
        "Number of last frames of --video that are given. Default: as many as the model can see."),
    "num_frames": (flags.DEFINE_integer, "Number of frames of a clip; 1 makes pictures. Default: the model's own."),
    "window": (
        flags.DEFINE_integer,
        "Number of latent frames that the model sees at most. Default: as many as it was trained on."),
    "later_context": (
        flags.DEFINE_integer, "Number of latent frames before a prompt of --then that it still sees. Default: all."),
    "num_inference_steps": (
        flags.DEFINE_integer, "Number of sets in which the tokens of a frame are generated. Default: the model's own."),
    "later_inference_steps": (
        flags.DEFINE_integer, "Number of sets for all frames but the first. Default: as many as for the first."),
    "token_order": (
        _enum, "Order in which the tokens of a frame are generated; checkerboard takes every other one first. Default: "
        "random."),
    "later_token_order": (
        _enum, "Order of tokens for all frames but the first. Default: as for the first."),
    "set_schedule": (
        _enum, "Sizes of the sets: growing by a cosine, constant, or half of the tokens in the last sets (two_stage). "
        "Default: cosine."),
    "later_set_schedule": (
        _enum, "Sizes of the sets for all frames but the first. Default: as for the first."),
    "num_diffusion_steps": (
        flags.DEFINE_integer, "Number of diffusion steps for each set of tokens. Default: the model's own."),
    "solver": (
        _enum,
        "Way to take a diffusion step: euler or ab2 for flow matching, ancestral, ddim or dpmpp_2m for DDPM. Default: "
        "the first one."),
    "diffusion_grid": (
        _enum, "Times of diffusion steps: the published ones, or full, where the last step counts, too. Default: "
        "published."),
    "temperature": (flags.DEFINE_float, "Factor on all noise, from 0 to 2. Default: 1."),
    "last_temperature": (
        flags.DEFINE_float, "Factor on the noise of the last frame, towards which it goes frame by frame. Default: "
        "--temperature throughout."),
    "refresh_every": (
        flags.DEFINE_integer,
        "Number of sets from one full pass of the encoder to the next; above 1 is faster, approximate. Default: 1."),
    "guidance_scale": (
        flags.DEFINE_float, "Scale of classifier-free guidance; 1 means no guidance. Default: the model's own."),
    "min_guidance_scale": (
        flags.DEFINE_float,
        "Scale of guidance for the first set, from which it grows. Default: --guidance_scale throughout."),
    "guidance_trunc": (flags.DEFINE_float, "Time of diffusion, from 0 to 1000, below which guidance ends. Default: 0."),
    "guidance_start": (
        flags.DEFINE_float, "Time of diffusion, from 0 to 1000, above which there is no guidance yet. Default: 1000."),
    "guidance_every": (
        flags.DEFINE_integer,
        "Number of sets from one unconditional pass of the encoder to the next, a multiple of --refresh_every; above 1 "
        "is faster, approximate. Default: 1."),
    "guidance_renorm": (
        flags.DEFINE_float,
        "Factor, from 0 to 1, by which guided predictions may be shrunk at most. Default: 1, not at all."),
    "image_guidance_scale": (flags.DEFINE_float, "Scale of guidance by earlier frames; 0 means none. Default: 0."),
    "flow_shift": (flags.DEFINE_float, "Shift of the flow-matching sampler. Default: the model's own."),
    "motion_flow": (
        flags.DEFINE_float, "Motion score that the model is told; larger means more motion. Default: the model's own."),
    "fps": (
        flags.DEFINE_float, "Frames per second that the model is told and that files have. Default: the model's own."),
    "num_samples": (flags.DEFINE_integer, "Number of clips for each prompt. Default: 1."),
}


def define(values: flags.FlagValues) -> None:
  """Define the flags."""
  flags.DEFINE_string(
      "checkpoint", None, "Folder of the model: a published one, a converted one, or the workdir of a training run.",
      flag_values=values)
  flags.DEFINE_string("output", None, "Folder that clips and pictures are written to.", flag_values=values)
  flags.DEFINE_multi_string(
      "prompt", None, "Text that says what to show; repeat the flag for several clips.", flag_values=values)
  flags.DEFINE_multi_integer(
      "label", None, "Number of the class to show, for a class-conditional model; repeat the flag for several clips.",
      flag_values=values)
  flags.DEFINE_string(
      "prompts", None, "File of prompts, one a line: .txt, or .csv, .jsonl or .json with settings of each line.",
      flag_values=values)
  flags.DEFINE_multi_string(
      "then", None,
      "Prompt that takes over at a frame, FRAME:PROMPT with frames counted from 0; repeat the flag for several.",
      flag_values=values)
  flags.DEFINE_string(
      "mask", None,
      "Part of --image or --video to make anew: a picture file that is white there, or a box TOP,LEFT,BOTTOM,RIGHT.",
      flag_values=values)
  flags.DEFINE_list(
      "place", None, "Box TOP,LEFT,BOTTOM,RIGHT of the frame into which --image or --video is put; the rest is made.",
      flag_values=values)
  for name, (make, text) in _SETTINGS.items():
    make(name, None, text, flag_values=values)
  flags.DEFINE_enum(
      "preset", None, sorted(PRESETS),
      "Set of settings for a quick look (draft), for long videos (fast) or as in the paper; flags and lines of "
      "--prompts win.", flag_values=values)
  flags.DEFINE_integer(
      "seed", 0, "Seed of the first clip; clip number i, counted from 0, has the seed plus i.", flag_values=values)
  flags.DEFINE_list(
      "formats", ["mp4", "gif", "sheet"], f"Formats to write, some of {', '.join(FORMATS)}; latents must stand alone.",
      flag_values=values)
  flags.DEFINE_integer(
      "batch_size", 8, "Number of clips that are generated together, at most.", lower_bound=1, flag_values=values)
  flags.DEFINE_string(
      "reproduce", None, "File that an earlier run wrote; it is made again, with the settings that it names.",
      flag_values=values)
  flags.DEFINE_enum(
      "weights", "ema", ["ema", "params"],
      "Weights to use of a training run: the averaged ones (ema) or the last ones (params).", flag_values=values)
  flags.DEFINE_enum(
      "dtype", "float32", ["float32", "bfloat16"], "Precision of the activations; bfloat16 is faster on accelerators.",
      flag_values=values)
  flags.DEFINE_integer(
      "space_tile", None,
      "Side of the tiles, in latents, that are decoded one by one: less memory, approximate. Default: no tiles.",
      flag_values=values)
  flags.DEFINE_bool(
      "low_memory", False, "Whether to embed all prompts first, and free the text encoder before the model loads.",
      flag_values=values)
  flags.DEFINE_bool(
      "all_devices", False, "Whether to spread each batch over all devices of this machine.", flag_values=values)
  flags.DEFINE_bool(
      "warmup", False, "Whether to compile the programs that these prompts need, keep them, and end.",
      flag_values=values)
  flags.DEFINE_string(
      "compilation_cache", DEFAULT,
      "Folder that keeps compiled programs for the next start; auto is a folder below ~/.cache, and off keeps none.",
      flag_values=values)


def clips(args: flags.FlagValues) -> tuple[list[dict[str, Any]], list[str]]:
  """Return the settings of each clip, and the line of a file that each stands in; "" for the command line.

  Raises:
    ValueError: nothing to make, or a setting that no model can do.
  """
  lines = [{"prompt": prompt} for prompt in args.prompt or []] + [{"label": label} for label in args.label or []]
  if any(map(is_blank, args.prompt or [])):
    raise UserError("--prompt: it is empty; say what to show")
  named = read_named(args.prompts) if args.prompts else []
  places = [""] * len(lines) + [place for place, _ in named]
  lines += [settings for _, settings in named]
  if not lines:
    raise UserError("--prompt: say what to show (of a class-conditional model, --label), or --prompts FILE")
  common = dict(PRESETS[args.preset]) if args.preset else {}
  common |= {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
  if args.then:
    common["later_prompts"] = dict(_then(text) for text in args.then)
    if len(common["later_prompts"]) < len(args.then):
      raise UserError(f"--then: expected one prompt a frame, got {', '.join(map(repr, args.then))}")
  if args.mask:
    common["mask"] = read_box(args.mask)
  if args.place:
    common["place"] = [int(side) if side.strip().isdecimal() else side for side in args.place]
  clips = expand(lines, common, args.seed, places)
  places = [
      place for line, place in zip(lines, places, strict=True) for _ in range({**common, **line}.get("num_samples", 1))]
  check_files(clips, places)
  return clips, places


def check_alone(args: flags.FlagValues) -> None:
  """Refuse settings beside --reproduce, which would not be heard."""
  others = "prompt", "label", "prompts", "preset", "then", "mask", "place", "seed", "space_tile"
  for name in (*others, *_SETTINGS, "batch_size", "weights", "dtype"):
    if args[name].present:
      raise UserError(f"--{name}: an output that is made again brings its own settings; leave it out")


def formats(args: flags.FlagValues) -> tuple[str, ...]:
  """Return the formats to write."""
  for name in args.formats:
    if name not in FORMATS:
      raise UserError(f"--formats: expected some of {', '.join(FORMATS)}, got {name!r}")
  if not args.formats or ("latents" in args.formats and len(args.formats) > 1):
    raise UserError("--formats: expected at least one, and latents alone")
  return tuple(args.formats)


def mesh(args: flags.FlagValues) -> MeshConfig | None:
  """Return how samples are spread over devices."""
  return MeshConfig(data=len(jax.local_devices()), fsdp=1) if args.all_devices else None


def _then(text: str) -> tuple[int, str]:
  frame, colon, prompt = text.partition(":")
  if not colon or not frame.strip().isdecimal() or not prompt.strip():
    raise UserError(f"--then: expected FRAME:PROMPT such as '8:the digit seven moves up', got {text!r}")
  return int(frame), prompt.strip()
