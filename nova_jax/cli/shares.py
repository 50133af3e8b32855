"""Flags by which several hosts share out the work of a command, each with its own chips and without waiting."""

from absl import flags

from nova_jax.parallel.supervisor import shard_for_process


def define(values: flags.FlagValues, work: str) -> None:
  """Define the flags.

  Args:
    values: flags of the command.
    work: what the hosts do together, such as "build the cache".
  """
  flags.DEFINE_string(
      "coordinator", None,
      "The word auto, on TPU VMs, GKE, Slurm and Open MPI: the number of hosts and of this one are found out.",
      flag_values=values)
  flags.DEFINE_integer("num_processes", None, f"Number of hosts that {work} together.", flag_values=values)
  flags.DEFINE_integer("process_id", None, "Number of this host among them, counted from 0.", flag_values=values)


def share(args: flags.FlagValues) -> tuple[int, int]:
  """Return the number of this host and how many share the work; (0, 1) if it does all.

  Raises:
    UserError: the flags are incomplete, or the host can't be found out.
  """
  return shard_for_process(args.coordinator, args.num_processes, args.process_id)
