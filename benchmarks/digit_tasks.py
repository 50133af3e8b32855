"""Score a digits model on every task: `python -m benchmarks.digit_tasks --checkpoint runs/digits --output out`.

Image to video, continuation, four times the trained length, a prompt that changes on the way, and inpainting, on
held-out digits; prints the scores of `nova_jax/evals/digits/tasks.py` and writes `TASK.png`, a clip a row.
"""

import json
from pathlib import Path

from absl import flags

from nova_jax import media
from nova_jax.cli import Command
from nova_jax.evals.digits.tasks import Tasks
from nova_jax.pipeline import Pipeline
from nova_jax.utils.files import write_atomically

SHEET_CLIPS = 20


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("checkpoint", None, "Model folder: the workdir of a training run.", flag_values=values)
  flags.DEFINE_string("output", None, "Folder to write to.", flag_values=values)
  flags.DEFINE_integer("num_cases", 100, "Of each task.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer(
      "refresh_every", 1, "Sets from one full pass of the spatial encoder to the next; 1 is exact.", flag_values=values)
  flags.DEFINE_integer("seed", 0, "Of all randomness.", flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Generate, score, print and write."""
  output = Path(args.output)
  output.mkdir(parents=True, exist_ok=True)
  tasks = Tasks(Pipeline.load(args.checkpoint), args.num_cases, args.seed, {"refresh_every": args.refresh_every})
  scores = {}
  for name, (clips, values) in tasks.run().items():
    scores[name] = {key: round(float(value), 4) for key, value in values.items()}
    print(f"{name:<16}" + ", ".join(f"{key} {value:g}" for key, value in scores[name].items()), flush=True)
    media.write_sheet(output / f"{name}.png", clips[:SHEET_CLIPS, ..., None], tasks.prompts[:SHEET_CLIPS])
  write_atomically(output / "tasks.json", json.dumps({"cases": args.num_cases, **scores}, indent=2) + "\n")


if __name__ == "__main__":
  Command(main, define_flags, required=("checkpoint", "output")).run()
