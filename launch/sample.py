"""Generate videos: `python -m launch.sample --checkpoint DIR --prompt "the digit seven moves left" --output DIR`.

Writes an mp4 and a GIF for each prompt or class (a PNG for a single frame) and one contact sheet, `sheet.png`.
"""

import re
import time
from pathlib import Path

from absl import flags

from nova_jax import cli, media
from nova_jax.pipeline import Pipeline
from nova_jax.progress import Progress

flags.DEFINE_string("checkpoint", None, "Model folder: published, converted, or the workdir of a training run.")
flags.DEFINE_multi_string("prompt", None, "What to show; repeat the flag for several videos.")
flags.DEFINE_multi_integer("label", None, "Of a class-conditional model: the class; repeat the flag for several.")
flags.DEFINE_string("negative_prompt", None, "What not to show.")
flags.DEFINE_string("output", None, "Folder to write to.")
flags.DEFINE_integer("num_frames", None, "Frames of a video; 1 makes pictures. Default: what the model was trained on.")
flags.DEFINE_integer("num_inference_steps", None, "Sets of tokens a frame. Default: the model's own.")
flags.DEFINE_integer("num_diffusion_steps", None, "Diffusion steps a set. Default: the model's own.")
flags.DEFINE_float("guidance_scale", None, "Classifier-free guidance; 1 for none. Default: the model's own.")
flags.DEFINE_integer("seed", 0, "Of all randomness.")
flags.DEFINE_enum("weights", "ema", ["ema", "params"], "Of a training run: averaged weights or the last ones.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of activations.")
flags.DEFINE_integer("space_tile", None, "Decode in tiles of so many latents a side: less memory, approximate.")
flags.DEFINE_float("motion_flow", None, "Motion score, of models for videos. Default: the model's own.", lower_bound=0)
flags.DEFINE_float("fps", None, "Frames a second, told to the model and of the files. Default: the model's own.",
                   lower_bound=0.1)


def main() -> None:
  """Generate one video for each --prompt or --label."""
  args = flags.FLAGS
  if not args.prompt and not args.label:
    raise ValueError("--prompt: say what to show (of a class-conditional model, --label)")
  output = Path(args.output)
  output.mkdir(parents=True, exist_ok=True)  # Find out now, not after generating, if it can't be.
  pipe = Pipeline.load(args.checkpoint, weights=args.weights, dtype=args.dtype, space_tile=args.space_tile)
  started = time.perf_counter()
  num_frames = pipe.num_latent_frames(args.num_frames)
  with Progress("set") as progress:

    def on_set(frame: int, index: int, num_sets: int) -> None:
      what = f"frame {frame + 1}/{num_frames}, set {index + 1}/{num_sets}"
      progress.show(frame * num_sets + index + 1, num_frames * num_sets, what)

    clips = pipe(
        args.prompt, label=args.label, negative_prompt=args.negative_prompt, num_frames=args.num_frames,
        num_inference_steps=args.num_inference_steps, num_diffusion_steps=args.num_diffusion_steps,
        guidance_scale=args.guidance_scale, motion_flow=args.motion_flow, fps=args.fps, seed=args.seed, on_set=on_set)
  seconds = time.perf_counter() - started
  fps = args.fps or pipe.card.sample.fps
  titles = args.prompt or [f"class {label}" for label in args.label]
  for i, (clip, prompt) in enumerate(zip(clips, titles)):
    name = f"{i:03}-{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:60]}"
    if len(clip) == 1:
      media.write_png(output / f"{name}.png", clip[0])
    else:
      media.write_mp4(output / f"{name}.mp4", clip, fps)
      media.write_gif(output / f"{name}.gif", clip, fps)
  media.write_sheet(output / "sheet.png", clips, titles)
  print(f"{len(clips)} x {clips.shape[1]} frames in {seconds:.1f} s, compilation included; see {output}/sheet.png")


if __name__ == "__main__":
  cli.run(main, required=("checkpoint", "output"))
