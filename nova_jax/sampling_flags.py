"""The flags of `launch.sample`, and the settings that they stand for.

A setting comes from the line of a prompts file, else from its flag, else from the preset, else from the model.
"""

from typing import Any

import jax
from absl import flags

from nova_jax.compilation_cache import DEFAULT
from nova_jax.config import MeshConfig
from nova_jax.prompts import expand, read_box, read_prompts
from nova_jax.recipe import FORMATS
from nova_jax.request import PRESETS, Request
from nova_jax.sources import count_frames

# Flags that are settings of `Request`: how to define them, and what they mean.
_SETTINGS = {
    "negative_prompt": (flags.DEFINE_string, "What not to show."),
    "image": (flags.DEFINE_string, "The first frame, any picture; with --mask or --place, what to edit."),
    "video": (flags.DEFINE_string, "A clip to continue from its end; with --mask or --place, what to edit."),
    "context_frames": (flags.DEFINE_integer, "Last frames of --video that are given. Default: all it can see."),
    "num_frames": (flags.DEFINE_integer, "Frames of a video, any number; 1 makes pictures. Default: the model's own."),
    "window": (flags.DEFINE_integer, "Latent frames that the model sees at most. Default: what it was trained on."),
    "later_context": (flags.DEFINE_integer, "Latent frames that a prompt of --then still sees. Default: all."),
    "num_inference_steps": (flags.DEFINE_integer, "Sets of tokens a frame. Default: the model's own."),
    "later_inference_steps": (flags.DEFINE_integer, "The same for all frames but the first. Default: as many."),
    "num_diffusion_steps": (flags.DEFINE_integer, "Diffusion steps a set. Default: the model's own."),
    "refresh_every": (flags.DEFINE_integer, "Compute all features each so many sets: faster, approximate. Default: 1."),
    "guidance_scale": (flags.DEFINE_float, "Classifier-free guidance; 1 for none. Default: the model's own."),
    "min_guidance_scale": (flags.DEFINE_float, "The first set's, from which guidance grows. Default: it is constant."),
    "guidance_trunc": (flags.DEFINE_float, "Time of diffusion, in 0 to 1000, below which guidance ends. Default: 0."),
    "guidance_renorm": (flags.DEFINE_float, "How far guidance may be shrunk, 0 to 1. Default: 1, not at all."),
    "image_guidance_scale": (flags.DEFINE_float, "Guidance by earlier frames. Default: none."),
    "flow_shift": (flags.DEFINE_float, "Shift of the flow-matching sampler. Default: the model's own."),
    "motion_flow": (flags.DEFINE_float, "Motion score. Default: the model's own."),
    "fps": (flags.DEFINE_float, "Frames a second, told to the model and of the files. Default: the model's own."),
    "num_samples": (flags.DEFINE_integer, "Clips of each prompt. Default: 1."),
}


def define() -> None:
  """Define the flags."""
  flags.DEFINE_string("checkpoint", None, "Model folder: published, converted, or the workdir of a training run.")
  flags.DEFINE_string("output", None, "Folder to write to.")
  flags.DEFINE_multi_string("prompt", None, "What to show; repeat the flag for several.")
  flags.DEFINE_multi_integer("label", None, "Of a class-conditional model: the class; repeat the flag for several.")
  flags.DEFINE_string("prompts", None, "File of prompts, one a line: .txt, .csv or .jsonl with settings of each line.")
  flags.DEFINE_multi_string("then", None, "FRAME:PROMPT, a prompt that takes over at a frame; may be repeated.")
  flags.DEFINE_string("mask", None, "What is made anew: a picture, white there, or a box TOP,LEFT,BOTTOM,RIGHT.")
  flags.DEFINE_list("place", None, "TOP,LEFT,BOTTOM,RIGHT: where --image or --video is put; the rest is made.")
  for name, (make, text) in _SETTINGS.items():
    make(name, None, text)
  flags.DEFINE_enum("preset", None, sorted(PRESETS), "Settings by name; flags and lines win.")
  flags.DEFINE_integer("seed", 0, "Of the first clip; clip i has seed + i.")
  flags.DEFINE_list("formats", ["mp4", "gif", "sheet"], f"Some of {', '.join(FORMATS)}; latents alone.")
  flags.DEFINE_integer("batch_size", 8, "Clips generated at once, at most.", lower_bound=1)
  flags.DEFINE_string("reproduce", None, "An output: make it again from what it says of itself.")
  flags.DEFINE_enum("weights", "ema", ["ema", "params"], "Of a training run: averaged weights or the last ones.")
  flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of activations.")
  flags.DEFINE_integer("space_tile", None, "Decode in tiles of so many latents a side: less memory, approximate.")
  flags.DEFINE_bool("low_memory", False, "Embed all prompts first, and free the text encoder before the model loads.")
  flags.DEFINE_bool("all_devices", False, "Spread each batch over all devices of this machine.")
  flags.DEFINE_bool("warmup", False, "Compile the programs of these prompts, keep them, and end.")
  flags.DEFINE_string("compilation_cache", DEFAULT, 'Folder of compiled programs; "off" for none.')


def clips(args: flags.FlagValues) -> list[dict[str, Any]]:
  """Return the settings of each clip.

  Raises:
    ValueError: nothing to make, or a setting that no model can do.
  """
  lines = [{"prompt": prompt} for prompt in args.prompt or []] + [{"label": label} for label in args.label or []]
  lines += read_prompts(args.prompts) if args.prompts else []
  if not lines:
    raise ValueError("--prompt: say what to show (of a class-conditional model, --label), or --prompts FILE")
  common = dict(PRESETS[args.preset]) if args.preset else {}
  common |= {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
  if args.then:
    common["later_prompts"] = dict(_then(text) for text in args.then)
    if len(common["later_prompts"]) < len(args.then):
      raise ValueError(f"--then: expected one prompt a frame, got {', '.join(map(repr, args.then))}")
  if args.mask:
    common["mask"] = read_box(args.mask)
  if args.place:
    common["place"] = [int(side) if side.strip().isdecimal() else side for side in args.place]
  return [_complete(settings) for settings in expand(lines, common, args.seed)]


def check_alone(args: flags.FlagValues) -> None:
  """Refuse settings beside --reproduce, which would not be heard."""
  for name in ("prompt", "label", "prompts", "preset", "then", "mask", "place", *_SETTINGS, "space_tile"):
    if getattr(args, name) is not None:
      raise ValueError(f"--{name}: an output that is made again brings its own settings; leave it out")


def formats(args: flags.FlagValues) -> tuple[str, ...]:
  """Return the formats to write."""
  for name in args.formats:
    if name not in FORMATS:
      raise ValueError(f"--formats: expected some of {', '.join(FORMATS)}, got {name!r}")
  if not args.formats or ("latents" in args.formats and len(args.formats) > 1):
    raise ValueError("--formats: expected at least one, and latents alone")
  return tuple(args.formats)


def mesh(args: flags.FlagValues) -> MeshConfig | None:
  """Return how samples are spread over devices."""
  return MeshConfig(data=len(jax.local_devices()), fsdp=1) if args.all_devices else None


def _complete(settings: dict[str, Any]) -> dict[str, Any]:
  """Check a clip's settings, and say how long what is edited is: clips of one length are generated together."""
  if Request.of(settings).is_edit and "num_frames" not in settings:
    return {**settings, "num_frames": count_frames(settings["video"]) if "video" in settings else 1}
  return settings


def _then(text: str) -> tuple[int, str]:
  frame, colon, prompt = text.partition(":")
  if not colon or not frame.strip().isdecimal() or not prompt.strip():
    raise ValueError(f"--then: expected FRAME:PROMPT such as '8:the digit seven moves up', got {text!r}")
  return int(frame), prompt.strip()
