"""Generate pictures and videos from text, pictures or videos.

Example:
  python -m launch.sample --checkpoint runs/digits --output out --prompt "the digit seven moves up"

Each output says how it was made, `--reproduce FILE` makes it again, and a run that was killed continues where it was.
docs/generation.md shows every task.
"""

import time
from pathlib import Path

from absl import flags

from nova_jax import cli, compilation_cache, jobs, media, sampling_flags
from nova_jax.pipeline import Pipeline
from nova_jax.progress import Progress
from nova_jax.recipe import read_recipe

SHEET_CLIPS = 64
sampling_flags.define()


def main() -> None:
  """Generate a clip for each prompt or class, or one again."""
  args = flags.FLAGS
  started = time.perf_counter()
  again = read_recipe(Path(args.reproduce)) if args.reproduce else None
  if again:
    sampling_flags.check_alone(args)
  clips = [again.settings] if again else sampling_flags.clips(args)
  checkpoint = args.checkpoint or (again.checkpoint if again else None)
  if checkpoint is None:
    raise ValueError("--checkpoint: say which model, a folder")
  formats = sampling_flags.formats(args)
  output = Path(args.output)
  output.mkdir(parents=True, exist_ok=True)  # Find out now, not after generating, if it can't be.
  compilation_cache.use(args.compilation_cache, on_cpu=True)
  weights = again.weights.split()[0] if again else args.weights
  texts = jobs.encode_first(checkpoint, clips) if args.low_memory else None
  pipe = Pipeline.load(
      checkpoint, weights=weights, parts=("vae",) if args.low_memory else ("vae", "text_encoder"),
      dtype=again.dtype if again else args.dtype, space_tile=again.space_tile if again else args.space_tile,
      mesh=sampling_flags.mesh(args))
  pipe.text_encoder = texts or jobs.known_texts(pipe.text_encoder, clips)
  batches = list(jobs.plan_batches(clips, min(args.batch_size, len(clips))))
  recipes = [again] if again else jobs.make_recipes(
      pipe, checkpoint, weights, clips, batches, min(args.batch_size, len(clips)))
  if again:
    jobs.check_same(pipe, again)
  if args.warmup:
    jobs.warm_up(pipe, recipes, batches)
    print(f"all programs are compiled, after {time.perf_counter() - started:.1f} s")
    return
  with Progress("set") as progress:
    files = jobs.run(pipe, recipes, batches, output, formats, progress)
  sheets = [path for paths in files for path in paths if path.name.endswith("-sheet.png")]
  if sheets:
    media.write_stack(output / jobs.STACK, sheets[:SHEET_CLIPS])
  print(f"{len(clips)} in {time.perf_counter() - started:.1f} s, start and compilation included; see {output}")


if __name__ == "__main__":
  cli.run(main, required=("output",))
