"""Run a sweep over settings, and write tables and plots of its results.

Example:
  python -m launch.sweep --config configs/sweeps/guidance.py --checkpoint runs/digits --output out/sweep

Each point runs in a process of its own, in order; the same command again runs what is missing or failed. On several
machines that see --output, give each a --shard, such as the index of an array job. It writes results.csv, results.md,
plots/ and index.html, also while points are missing.
"""

import re
import sys

from absl import flags

from nova_jax.checkpoints.hub import pinned
from nova_jax.checkpoints.model_folder import open_folder
from nova_jax.cli.common_flags import define_shard
from nova_jax.cli.entry import Command
from nova_jax.pipeline.prompts import naming
from nova_jax.tools.sweeps.engine import plan_trials, run_trials
from nova_jax.tools.sweeps.plan import load_sweep
from nova_jax.utils.errors import FAILED, UserError
from nova_jax.utils.files import check_folder_writable


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string(
      "config", None, "Python file with get_sweep(), which is run, such as configs/sweeps/guidance.py, or the name of "
      "a sweep that comes with nova_jax.", flag_values=values)
  flags.DEFINE_string(
      "checkpoint", None, "Model for points that train none of their own: a folder, or an id on the Hugging Face hub.",
      flag_values=values)
  flags.DEFINE_string("output", None, "Folder that the results of the sweep are written to.", flag_values=values)
  flags.DEFINE_string(
      "runs", None, "Folder of training runs, which several sweeps can share. Default: the folder runs in --output.",
      flag_values=values)
  flags.DEFINE_string(
      "results", None, "Folder of small files, one a point, such as one in a repository: a point whose result is there "
      "isn't run, and what is measured is added.", flag_values=values)
  flags.DEFINE_integer(
      "processes", 1, "Number of points that run at the same time on this machine.", lower_bound=1, flag_values=values)
  define_shard(values)
  flags.DEFINE_bool(
      "report", False, "Whether to run nothing and only write the results of the points that are done.",
      flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Run a sweep, and write what came of it."""
  from nova_jax.tools.sweeps.report import write_report  # Not every installation has what it needs.

  shard = re.fullmatch(r"(\d+)/(\d+)", args.shard)
  if not shard:
    raise UserError(f"--shard: expected I/N, such as 0/4, got {args.shard!r}")
  sweep, output = load_sweep(args.config), check_folder_writable("output", args.output)
  checkpoint = args.checkpoint
  if checkpoint:
    with naming("--checkpoint"):
      checkpoint = pinned(checkpoint, download=not args.report)
      if not args.report:
        open_folder(checkpoint)
  runs, results = (
      check_folder_writable(flag, path) if path else None
      for flag, path in (("runs", args.runs), ("results", args.results)))
  trials = plan_trials(sweep, checkpoint, output, runs, results)
  if not args.report:
    run_trials(trials, args.processes, (int(shard[1]), int(shard[2])), lambda line: print(line, flush=True))
  paths = write_report(sweep, trials, output)
  done, failed = sum(t.result is not None for t in trials), sum(t.error is not None for t in trials)
  print(f"{done} of {len(trials)} points done, {failed} failed; open {paths[-1]}")
  sys.exit(FAILED if failed else 0)


COMMAND = Command(main, define_flags, required=("config", "output"), own_chips=True, configs="sweeps")
