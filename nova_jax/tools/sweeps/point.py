"""One point of a sweep, in a process of its own: `python -m nova_jax.cli.task nova_jax.tools.sweeps.point TASK.json`.

Trains if the point has training fields, generates, scores, and writes the result: scores of the digits, and the seconds
that a clip takes once everything is compiled. What fails here fails alone.
"""

import json

from nova_jax.checkpoints.store import finished_steps
from nova_jax.config import Experiment
from nova_jax.evals.digits_run import score_digits
from nova_jax.pipeline import Pipeline
from nova_jax.train.nova import train
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import write_atomically


def measure(task: dict) -> dict[str, float]:
  """Return scores and cost of a point."""
  if task["experiment"] is not None:
    experiment = from_dict(Experiment, task["experiment"])
    # A finished one isn't claimed: several sweeps may be reading it.
    if experiment.train.steps not in finished_steps(as_path(task["checkpoint"]) / "checkpoints"):
      train(experiment, task["checkpoint"])
  pipe = Pipeline.load(task["checkpoint"], **task["loading"])
  options = {name: task[name] for name in ("captions", "batch_size", "seed")}
  # A whole batch of the same shape, so that nothing is left to compile.
  pipe(["the digit one moves left"] * task["batch_size"], seed=task["seed"], **task["sampling"])
  result = score_digits(
      pipe, as_path(task["output"]), num_prompts=task["num_prompts"], **options, **task["sampling"])
  return {name: share.value for name, share in result.scores.items()} | {
      "seconds_per_clip": result.seconds_per_clip}


def main(task: dict) -> None:
  """Measure a point, and write its result."""
  write_atomically(task["result"], json.dumps(measure(task), indent=1) + "\n")
