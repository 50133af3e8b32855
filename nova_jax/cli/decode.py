"""Decode latents into videos and pictures, with an autoencoder alone.

Example:
  python -m launch.decode --source latents --autoencoder BAAI/nova-d48w1024-osp480 --output decoded

--source is a .safetensors file as `launch.encode` and `launch.sample --formats latents` write it, or a folder of them.
A clip of one frame becomes a PNG; several clips of one file become files with numbers. What is in --output already is
not made again.
"""

import time

import numpy as np
from absl import flags

from nova_jax.cli import autoencoder_flags
from nova_jax.cli.entry import Command
from nova_jax.config import DEFAULT_FPS
from nova_jax.pipeline.clips import Clips
from nova_jax.pipeline.latent_files import ENDING, check_autoencoder, read_latents
from nova_jax.utils.progress import Progress


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  autoencoder_flags.define(values, "File of latents to decode, or a folder of them.", "Folder of the clips.")
  flags.DEFINE_enum("format", "mp4", ["mp4", "gif", "webp"], "Format of the clips.", flag_values=values)
  flags.DEFINE_float(
      "fps", None, f"Frames per second. Default: that of the file, or {DEFAULT_FPS:g} if it says none.",
      lower_bound=0.01, flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Decode each file."""
  started = time.perf_counter()
  work = autoencoder_flags.plan(args, lambda name: name.lower().endswith(ENDING), f".{args.format}", ".png")
  autoencoder = autoencoder_flags.load(args)
  with Progress("file", len(work)) as progress:
    for done, (source, target) in enumerate(work):
      progress.show(done, what=source.name)
      clips = read_latents(source)
      check_autoencoder(source, clips, autoencoder)
      pixels = np.concatenate([np.asarray(autoencoder.decode(clip[None])) for clip in clips.latents])
      pixels = pixels[:, : clips.num_frames]  # Encoding repeats the last frame to fill a latent.
      ending = ".png" if pixels.shape[1] == 1 else f".{args.format}"
      Clips.from_array(pixels, args.fps or clips.fps or DEFAULT_FPS).save(target.with_suffix(ending))
    progress.show(len(work))
  print(f"{len(work)} files in {time.perf_counter() - started:.1f} s; see {args.output}")


COMMAND = Command(main, define_flags, required=("source", "autoencoder", "output"))
