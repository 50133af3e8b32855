"""One point of a sweep, in a process of its own: `python -m nova_jax.sweeps.point TASK.json`.

Trains if the point has training fields, generates, scores, and writes the result: scores of the digits, and the seconds
that a clip takes once everything is compiled. What fails here fails alone.
"""

import json
import sys
from pathlib import Path

from absl import logging

from nova_jax import cli
from nova_jax.config import Experiment
from nova_jax.evals.digits_run import score_digits
from nova_jax.fields import from_dict
from nova_jax.files import read_json, write_atomically
from nova_jax.pipeline import Pipeline
from nova_jax.train.loop import train


def measure(task: dict) -> dict[str, float]:
  """Return scores and cost of a point."""
  if task["experiment"] is not None:
    train(from_dict(Experiment, task["experiment"]), task["checkpoint"])
  pipe = Pipeline.load(task["checkpoint"], **task["loading"])
  options = {name: task[name] for name in ("captions", "batch_size", "seed")}
  # A whole batch of the same shape, so that nothing is left to compile.
  pipe(["the digit one moves left"] * task["batch_size"], seed=task["seed"], **task["sampling"])
  result = score_digits(
      pipe, Path(task["output"]), num_prompts=task["num_prompts"], **options, **task["sampling"])
  return {name: share.value for name, share in result.scores.items()} | {
      "seconds_per_clip": result.seconds / task["num_prompts"]}


def main() -> None:
  """Measure the point of a task file, and write its result."""
  task = read_json(Path(sys.argv[1]))
  logging.set_verbosity(logging.ERROR)
  try:
    result = measure(task)
  except Exception as error:
    code = cli.exit_code(error)
    if code is None:
      raise
    print(f"error: {cli.shorten(error)}", file=sys.stderr)
    sys.exit(code)
  write_atomically(task["result"], json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
  main()
