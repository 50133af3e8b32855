"""Sample for a benchmark, or score digits: `python -m launch.evaluate --benchmark NAME --checkpoint DIR --output DIR`.

--benchmark geneval, vbench, dpg or t2i_compbench with --prompts FILE fills a folder for the official scorer; the same
command continues it, and --shard 0/4 … 3/4 share it out. --check DIR verifies one. --benchmark digits generates clips
of all digits and directions, prints each score beside what real clips reach, and writes scores.json and pictures.
"""

import sys
from pathlib import Path

from absl import flags

from nova_jax import cli
from nova_jax.evals import digits as digits_lib
from nova_jax.evals.benchmarks import run
from nova_jax.evals.benchmarks.layout import NAMES
from nova_jax.evals.digits_run import score_digits
from nova_jax.pipeline import Pipeline
from nova_jax.progress import Progress

flags.DEFINE_enum("benchmark", "digits", ["digits", *NAMES], "What to sample for, or to score.")
flags.DEFINE_string("checkpoint", None, "Model folder: published, converted, or the workdir of a training run.")
flags.DEFINE_string("output", None, "Folder to write to.")
flags.DEFINE_string("prompts", None, "The benchmark's prompt file or folder, as its authors publish it.")
flags.DEFINE_string("rewritten", None, "NOVA's prompts.json of the benchmark: the model reads its longer prompts.")
flags.DEFINE_string("check", None, "Verify this --output of an earlier run; or a scored folder, with --prompts.")
flags.DEFINE_string("shard", "0/1", "I/N: make the I-th of N parts.")
flags.DEFINE_integer("num_frames", None, "Frames of a video. Default: what the model was trained on.")
flags.DEFINE_float("motion_flow", None, "Motion score told to the model. Default: the model's own.")
flags.DEFINE_float("fps", None, "Frames a second, told to the model and of the files. Default: the model's own.",
                   lower_bound=0.1)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of activations.")
flags.DEFINE_integer(
    "num_prompts", 400, "Digits: clips; multiples of 40 hold every digit and direction equally often.", lower_bound=1)
flags.DEFINE_enum("captions", "plain", ["plain", "free"], "Digits: one wording, or all paraphrases in turn.")
flags.DEFINE_integer("batch_size", None, "Samples generated at once. Default: 100 digits, 8 of others.", lower_bound=1)
flags.DEFINE_integer("num_inference_steps", None, "Sets of tokens a frame. Default: the model's own.")
flags.DEFINE_integer("num_diffusion_steps", None, "Diffusion steps a set. Default: the model's own.")
flags.DEFINE_float("guidance_scale", None, "Classifier-free guidance; 1 for none. Default: the model's own.")
flags.DEFINE_integer("seed", 0, "Of all randomness.")
flags.DEFINE_enum("weights", "ema", ["ema", "params"], "Of a training run: averaged weights or the last ones.")


def main() -> None:
  """Check, score or sample."""
  args = flags.FLAGS
  if args.check:
    sys.exit(0 if run.check_folder(Path(args.check), args.benchmark, args.prompts) else cli.FAILED)
  for name in ("checkpoint", "output"):
    if not getattr(args, name):
      raise ValueError(f"--{name} is needed (only --check does without)")
  if args.benchmark == "digits":
    _digits(args)
  else:
    run.sample(args)


def _digits(args) -> None:
  output = Path(args.output)
  output.mkdir(parents=True, exist_ok=True)  # Find out now, not after generating, if it can't be.
  pipe = Pipeline.load(args.checkpoint, weights=args.weights, dtype=args.dtype)
  with Progress("clip", args.num_prompts) as progress:
    result = score_digits(
        pipe, output, num_prompts=args.num_prompts, captions=args.captions, batch_size=args.batch_size or 100,
        seed=args.seed, show=lambda done: progress.show(done, what="generating"),
        num_inference_steps=args.num_inference_steps, num_diffusion_steps=args.num_diffusion_steps,
        guidance_scale=args.guidance_scale)
  print(f"{args.num_prompts} prompts, {args.captions} captions")
  print(f"{digits_lib.table(result.scores, result.real)}\nwatch {output}/grid.gif, or see {output}/sheet.png")


if __name__ == "__main__":
  cli.run(main)
