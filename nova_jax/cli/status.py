"""Say how a training run is doing.

Example:
  python -m launch.status runs/digits

It reads the workdir alone, on a disk or in a bucket (`gs://…`), while the run goes on: who trains, the step, the rate,
the time that is left, the last checkpoint, and the loss as a plot of one line.
"""

from absl import flags

from nova_jax.cli.addresses import check_addresses
from nova_jax.cli.entry import Command
from nova_jax.pipeline.prompts import naming
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string(
      "workdir", None, "Folder of the run, which may also be given without the name of this flag.", flag_values=values)


def main(args: flags.FlagValues, words: list[str]) -> None:
  """Print the state of a run."""
  from nova_jax.train.workdir.status import read_status

  given = [*([args.workdir] if args.workdir else []), *words]
  if len(given) != 1:
    raise UserError(f"expected the workdir of one run, such as runs/digits, got {' and '.join(given) or 'none'}")
  check_addresses({"workdir": given[0]})
  with naming("--workdir" if args.workdir else ""):
    status = read_status(as_path(given[0]))
  print("\n".join(status.lines()))


COMMAND = Command(main, define_flags, words=True)
