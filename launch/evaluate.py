"""Score a model: `python -m launch.evaluate --benchmark digits --checkpoint DIR --output DIR`.

Generates clips of all digits and directions, prints each score beside what real held-out clips reach, and writes
`scores.json`, a contact sheet `sheet.png` and, to watch, `grid.gif`.
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from nova_jax import cli, media
from nova_jax.data import captions
from nova_jax.evals import digits as digits_lib
from nova_jax.files import write_atomically
from nova_jax.pipeline import Pipeline
from nova_jax.progress import Progress

flags.DEFINE_enum("benchmark", "digits", ["digits"], "What to score.")
flags.DEFINE_string("checkpoint", None, "Model folder: the workdir of a training run.")
flags.DEFINE_string("output", None, "Folder to write to.")
flags.DEFINE_integer(
    "num_prompts", 400, "Clips; multiples of 40 hold every digit and direction equally often.", lower_bound=1)
flags.DEFINE_enum("captions", "plain", ["plain", "free"], "One wording, or all paraphrases in turn.")
flags.DEFINE_integer("batch_size", 100, "Clips generated at once.", lower_bound=1)
flags.DEFINE_integer("num_inference_steps", None, "Sets of tokens a frame. Default: the model's own.")
flags.DEFINE_integer("num_diffusion_steps", None, "Diffusion steps a set. Default: the model's own.")
flags.DEFINE_float("guidance_scale", None, "Classifier-free guidance; 1 for none. Default: the model's own.")
flags.DEFINE_integer("seed", 0, "Of all randomness.")
flags.DEFINE_enum("weights", "ema", ["ema", "params"], "Averaged weights or the last ones.")

SHEET_CLIPS = 20
GRID_CLIPS, GRID_COLUMNS = 40, 10  # A column a digit, a row a direction.


def main() -> None:
  """Generate, score, print and write."""
  args = flags.FLAGS
  output = Path(args.output)
  output.mkdir(parents=True, exist_ok=True)  # Find out now, not after generating, if it can't be.
  pipe = Pipeline.load(args.checkpoint, weights=args.weights)
  if pipe.autoencoder is None or pipe.autoencoder.latent_dim != 1 or pipe.text_encoder is None:
    raise ValueError(f"--checkpoint: the digits score needs a model of captioned moving digits, not {args.checkpoint}")
  num_frames, (canvas, _) = pipe.card.num_frames, pipe.cfg.latent_size
  real, digits, directions = digits_lib.real_clips(args.num_prompts, canvas, num_frames)
  prompts = [
      captions.caption(digit, direction) if args.captions == "plain" else captions.paraphrase(digit, direction, i // 40)
      for i, (digit, direction) in enumerate(zip(digits, directions))]
  clips = []
  with Progress("clip", len(prompts)) as progress:
    for start in range(0, len(prompts), args.batch_size):
      progress.show(start, what="generating")
      batch = prompts[start : start + args.batch_size]
      clips.append(pipe(
          batch, num_inference_steps=args.num_inference_steps, num_diffusion_steps=args.num_diffusion_steps,
          guidance_scale=args.guidance_scale, seed=[args.seed * len(prompts) + start + i for i in range(len(batch))]))
  clips = np.concatenate(clips)
  classifier = digits_lib.DigitClassifier()
  scores = digits_lib.score(clips[..., 0], digits, directions, classifier)
  real_scores = digits_lib.score(real, digits, directions, classifier)
  media.write_sheet(output / "sheet.png", clips[:SHEET_CLIPS], prompts[:SHEET_CLIPS])
  media.write_gif(output / "grid.gif", media.tile(clips[:GRID_CLIPS], GRID_COLUMNS), fps=4, short_side=400)
  write_atomically(output / "scores.json", json.dumps({
      "prompts": len(prompts), "captions": args.captions,
      "generated": {name: share.value for name, share in scores.items()},
      "real": {name: share.value for name, share in real_scores.items()}}, indent=2) + "\n")
  print(f"{len(prompts)} prompts, {args.captions} captions")
  print(f"{digits_lib.table(scores, real_scores)}\nwatch {output}/grid.gif, or see {output}/sheet.png")


if __name__ == "__main__":
  cli.run(main, required=("checkpoint", "output"))
