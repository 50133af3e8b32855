"""One point of a sweep, in its own process: `python -m nova_jax.cli.child nova_jax.tools.sweeps.point TASK.json`.

It trains if the point has training fields, generates, scores, and writes the result: scores of the digits, the seconds
per clip after compilation, and the operations of a clip's spatial stage. A point with a paradigm is measured by
`nova_jax/tools/baselines/run.py`. A failure affects only this point.
"""

import json

from nova_jax.config import Experiment
from nova_jax.evals.digits.score import score_digits
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.request import Request
from nova_jax.pipeline.resolve import plan_for
from nova_jax.sampling.flops import spatial_flops
from nova_jax.storage import as_path
from nova_jax.tools.baselines.run import measure as measure_paradigm
from nova_jax.train.nova import finish_nova
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import write_atomically


def measure(trial: dict) -> dict[str, float]:
  """Return the scores and the cost of a point."""
  if "paradigm" in trial:
    return measure_paradigm(trial)
  if trial["experiment"] is not None:
    finish_nova(from_dict(Experiment, trial["experiment"]), trial["checkpoint"])
  pipe = Pipeline.load(trial["checkpoint"], **trial["loading"])
  options = {name: trial[name] for name in ("captions", "batch_size", "seed", "task")}
  # A whole batch of the same shape, which compiles everything.
  pipe(["the digit one moves left"] * trial["batch_size"], seed=trial["seed"], **trial["sampling"])
  result = score_digits(
      pipe, as_path(trial["output"]), num_prompts=trial["num_prompts"], **options, **trial["sampling"])
  return {name: share.value for name, share in result.scores.items()} | {
      "seconds_per_clip": result.seconds_per_clip,
      "spatial_gflops": spatial_flops(plan_for(Request(prompt="", **trial["sampling"]), pipe.parts, None)).total / 1e9}


def main(trial: dict) -> None:
  """Measure a point and write its result."""
  write_atomically(trial["result"], json.dumps(measure(trial), indent=1) + "\n")
