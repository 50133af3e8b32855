"""Train NOVA.

Example:
  python -m launch.train --config configs/digits.py --workdir runs/digits --config.train.steps=2000

The same command again continues the run where its newest checkpoint ends. On many hosts it runs on each of them, with
--coordinator=auto on TPU VMs; elsewhere say which process is which by flags, or by JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment.
"""

import functools

from absl import flags

from nova_jax.cli.common_flags import define_compilation_cache, define_config
from nova_jax.cli.endings import fail
from nova_jax.cli.entry import Command
from nova_jax.config import Experiment
from nova_jax.parallel import supervisor
from nova_jax.storage import join
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import check_folder
from nova_jax.utils.terminal import say


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  define_config(values)
  flags.DEFINE_string(
      "workdir", None, "Folder of the run, for checkpoints, logs and samples; all processes must see it.",
      flag_values=values)
  flags.DEFINE_string(
      "coordinator", None,
      "Address HOST:PORT of process 0, if several processes train together; auto finds it on TPU VMs, GKE, Slurm and "
      "Open MPI.", flag_values=values)
  flags.DEFINE_integer("num_processes", None, "Number of processes that train together.", flag_values=values)
  flags.DEFINE_integer("process_id", None, "Number of this process among them, counted from 0.", flag_values=values)
  flags.DEFINE_float(
      "connect_timeout", supervisor.CONNECT_TIMEOUT, "Seconds within which all processes must have started.",
      lower_bound=1, flag_values=values)
  flags.DEFINE_string(
      "profile", None,
      "Range of steps, FIRST:LAST, whose profile is written into the folder profile of --workdir, for TensorBoard.",
      flag_values=values)
  define_compilation_cache(values, on_cpu=False)


def main(args: flags.FlagValues) -> None:
  """Train the experiment of --config in --workdir."""
  spec = supervisor.process_spec(args.coordinator, args.num_processes, args.process_id)
  supervisor.supervise(spec, args.connect_timeout)
  # Not at the top: the process that supervises needs no JAX.
  import jax

  from nova_jax.parallel.processes import session
  from nova_jax.train.callbacks.profile import parse_window
  from nova_jax.train.nova import train_nova
  from nova_jax.utils import compilation_cache, memory

  experiment = from_dict(Experiment, args.config)
  window = parse_window(args.profile, experiment.train.steps)
  check_folder("workdir", args.workdir)
  with session(spec, functools.partial(fail, args=args), args.connect_timeout):
    compilation_cache.use(args.compilation_cache, shared=str(join(args.workdir, "programs")))
    if jax.default_backend() == "cpu":
      memory.keep_freed_memory()
    say(f"training in {args.workdir}: loading the model and the data")
    train_nova(experiment, args.workdir, window)


COMMAND = Command(main, define_flags, required=("config", "workdir"))
