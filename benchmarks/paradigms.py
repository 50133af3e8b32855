"""NOVA against its rivals on one digit or two: `python -m benchmarks.paradigms --output runs/paradigms`.

Trains and scores NOVA, NOVA with all frames in one block, a vector-quantised raster autoregressive model and a
full-clip diffusion model of one size with equal compute, each in its own process
(`nova_jax/tools/baselines/run.py`), and writes a table, a JSON, a plot and a sheet of clips. The same command
continues what was interrupted. NOVA takes --share of the config's steps, all on whole clips; the others take as many
as cost the same.
"""

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from nova_jax.cli import Command
from nova_jax.config import Experiment
from nova_jax.tools.baselines.report import write_report
from nova_jax.tools.baselines.run import CONSTANTS, PARADIGMS
from nova_jax.tools.sweeps.engine import Trial, run_trials
from nova_jax.tools.sweeps.plan import digest
from nova_jax.utils.errors import RunFailed, UserError
from nova_jax.utils.fields import from_dict, to_dict

COMMAND = (sys.executable, "-m", "nova_jax.cli.child", "nova_jax.tools.baselines.run")


def plan_trials(experiment: Experiment, output: Path, **options: int) -> list[Trial]:
  """Return a trial for each paradigm."""
  trials = []
  for name in PARADIGMS:
    content = {"paradigm": name, "experiment": to_dict(experiment), "constants": CONSTANTS, **options}
    content = json.loads(json.dumps(content))
    folder = output / f"{name}-{digest(content)}"
    content |= {"output": str(folder), "result": str(folder / "result.json")}
    trials.append(Trial({"paradigm": name}, folder, name, content, COMMAND))
  return trials


def scaled(experiment: Experiment, share: float) -> Experiment:
  """Return the experiment with a share of its steps, and of what is counted in steps: warm-up and averaging."""
  cfg, optimizer = experiment.train, experiment.optimizer
  steps = round(cfg.steps * share)
  if steps < len(cfg.stages):
    raise UserError(f"--share: {share} leaves {steps} steps of {cfg.steps}; give more")
  decay = max(0.0, 1 - (1 - cfg.ema_decay) / share)
  return dataclasses.replace(
      experiment, train=dataclasses.replace(cfg, steps=steps, ema_decay=decay, sample_every=0),
      optimizer=dataclasses.replace(optimizer, warmup_steps=round(optimizer.warmup_steps * share)))


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  config_flags.DEFINE_config_file(
      "config", "configs/digits.py", "What NOVA trains on and how; the others follow it.", flag_values=values)
  flags.DEFINE_string("output", None, "Folder to write to.", flag_values=values)
  flags.DEFINE_float("share", 1.0, "Of the config's training steps that NOVA takes.", lower_bound=0, flag_values=values)
  flags.DEFINE_integer("num_prompts", 400, "Clips that are scored.", lower_bound=40, flag_values=values)
  flags.DEFINE_integer("batch_size", 100, "Clips generated at once.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("seed", 0, "Of the generation.", lower_bound=0, flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Run what is missing, and write the report."""
  output = Path(args.output)
  experiment = scaled(from_dict(Experiment, args.config), args.share)
  trials = plan_trials(
      experiment, output, num_prompts=args.num_prompts, batch_size=args.batch_size, seed=args.seed)
  run_trials(trials, 1, (0, 1))
  failed = [trial for trial in trials if trial.result is None]
  if len(failed) < len(trials):
    about = (
        f"Equal compute and size, {experiment.train.steps} steps of NOVA; shares of {args.num_prompts} clips, with "
        "95 % intervals. Each is guided at the best of a few scales, chosen on clips of other seeds. Training is "
        "counted by formula, seconds are this machine's.")
    print("\n".join(f"wrote {path}" for path in write_report(trials, about, output)))
    print((output / "paradigms.md").read_text(encoding="utf-8"))
  if failed:
    raise RunFailed(f"{failed[0].point['paradigm']}: {failed[0].error}; the same command tries again")


if __name__ == "__main__":
  Command(main, define_flags, required=("output",)).run()
