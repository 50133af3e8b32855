"""Encode videos and pictures into latents, with an autoencoder alone.

Example:
  python -m launch.encode --source clips --autoencoder BAAI/nova-d48w1024-osp480 --output latents

Each file of --source becomes NAME.safetensors with the array `latents`, float32 [batch, time, height, width, channel],
as models of this autoencoder expect them. `launch.decode` turns them back, and `launch.sample --video` continues them.
What is in --output already is not made again. In a folder that `launch.sample` wrote each clip is read once: of files
that differ in their ending alone a video, else webp, else gif, else a picture; and no contact sheets.
"""

import time
from pathlib import Path

import numpy as np
from absl import flags

from nova_jax.autoencoders import Autoencoder
from nova_jax.cli import autoencoder_flags
from nova_jax.cli.entry import Command
from nova_jax.media import footage, readers
from nova_jax.pipeline.latent_files import ENDING, LatentClips, write_latents
from nova_jax.utils.errors import UserError
from nova_jax.utils.progress import Progress
from nova_jax.utils.terminal import command


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  autoencoder_flags.define(values, "Video or picture to encode, or a folder of them.", "Folder of the latents.")
  flags.DEFINE_list(
      "size", None, "Size, HEIGHT,WIDTH in pixels, that frames are scaled and cropped to. Default: their own, cropped "
      "to what the autoencoder takes.", flag_values=values)
  flags.DEFINE_integer(
      "num_frames", None, "Number of first frames to encode, at most. Default: all.", lower_bound=1, flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Encode each file."""
  started, size = time.perf_counter(), _size(args.size)
  others = (ENDING, ".txt", ".json")  # Captions lie beside clips.
  work = autoencoder_flags.plan(args, lambda name: not name.lower().endswith(others), ENDING)
  autoencoder = autoencoder_flags.load(args)
  with Progress("file", len(work)) as progress:
    for done, (source, target) in enumerate(work):
      progress.show(done, what=source.name)
      clip = readers.open_clip(
          source, size or own_size(source, autoencoder), autoencoder.channels, first=args.num_frames)
      latents = np.asarray(autoencoder.encode(clip.frames[None]))
      write_latents(
          target.with_suffix(ENDING), LatentClips(latents, clip.fps, len(clip.frames), autoencoder.digest))
    progress.show(len(work))
  print(f"{len(work)} files in {time.perf_counter() - started:.1f} s; see {args.output}")
  print(f"next: {command('decode')} --source {args.output} --autoencoder {args.autoencoder} --output decoded")


def own_size(source: Path, autoencoder: Autoencoder) -> tuple[int, int]:
  """Return height and width of a file's first frame, less what is over a multiple of the autoencoder's stride."""
  with footage.open_footage(source) as shown:
    frame = next(shown.frames, None)
    if frame is None:
      raise UserError(f"{source}: there are no frames in it")
    height, width = (side - side % autoencoder.spatial_stride for side in frame.upright().shape[:2])
  if not height * width:
    raise UserError(f"{source}: its frames are smaller than {autoencoder.spatial_stride} pixels; say --size")
  return height, width


def _size(given: list[str] | None) -> tuple[int, int] | None:
  if given is None:
    return None
  if len(given) != 2 or not all(side.isdecimal() and int(side) for side in given):
    raise UserError(f"--size: expected HEIGHT,WIDTH such as 480,768, got {','.join(given)!r}")
  return int(given[0]), int(given[1])


COMMAND = Command(main, define_flags, required=("source", "autoencoder", "output"))
