"""Train on TPU VMs: request machines, install this code on them, and start, watch and stop a run.

Example:
  python -m launch.tpu_vm watch --name digits --zone us-west4-a --type v5litepod-16 -- --config=digits \\
      --workdir=gs://bucket/run

The first word is a command:
  create   requests the machines: --type v5litepod-256 [--slices 2] [--spot]
  status   prints the state of the request, and what each machine does
  install  copies this folder (or clones --source URL) onto all machines, and installs it there
  start    trains on all of them; arguments of launch.train follow after --
  log      follows the log of process 0
  stop     saves a checkpoint and stops
  watch    does all of this until the run is done, and again after each preemption
  delete   gives the machines back

The workdir must be an address in a bucket, or a folder that all machines see, which --setup may mount.
"""

from absl import flags

from nova_jax.cli.entry import Command
from nova_jax.cli.overrides import options
from nova_jax.tools.tpu_vm import Code, Gcloud, Machines
from nova_jax.utils import terminal
from nova_jax.utils.errors import UserError

COMMANDS = ("create", "status", "install", "start", "log", "stop", "watch", "delete")


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("name", None, "Name of the queued resource and of its machines.", flag_values=values)
  flags.DEFINE_string("zone", None, "Google Cloud zone of the machines, such as us-west4-a.", flag_values=values)
  flags.DEFINE_string(
      "project", "", "Google Cloud project to bill. Default: the one that gcloud is set to.", flag_values=values)
  flags.DEFINE_string("type", "", "Type of the accelerator, such as v5litepod-256.", flag_values=values)
  flags.DEFINE_string(
      "version", "", "Version of the runtime, such as v2-alpha-tpuv5-lite. Default: that of --type.",
      flag_values=values)
  flags.DEFINE_integer("slices", 1, "Number of slices of --type that are joined into one run.", flag_values=values)
  flags.DEFINE_bool(
      "spot", False, "Whether to use cheaper machines, which may be taken back at any time.", flag_values=values)
  flags.DEFINE_bool("reserved", False, "Whether to use machines of a reservation.", flag_values=values)
  flags.DEFINE_string(
      "valid_until", "", "Time that the request may wait in the queue, such as 6h. Default: no limit.",
      flag_values=values)
  flags.DEFINE_multi_string(
      "create_flag", [], "Further flag of gcloud's create, such as --create_flag=--service-account=NAME; repeat it.",
      flag_values=values)
  flags.DEFINE_multi_string(
      "ssh_flag", [], "Further flag of gcloud's ssh and scp, such as --ssh_flag=--tunnel-through-iap; repeat it.",
      flag_values=values)
  flags.DEFINE_string(
      "source", ".", "Folder with this code, or address of a git repository, that is installed on the machines.",
      flag_values=values)
  flags.DEFINE_string(
      "revision", "", "Revision of the git repository: a branch, a tag or a commit. Default: its main branch.",
      flag_values=values)
  flags.DEFINE_string(
      "setup", "", "Line of shell that runs on each machine before installing, such as one that mounts a disk.",
      flag_values=values)
  flags.DEFINE_float(
      "interval", 60.0, "Seconds between two checks by the command watch.", lower_bound=0, flag_values=values)
  flags.DEFINE_bool(
      "dry_run", False, "Whether to print the gcloud commands instead of running them.", flag_values=values)


def main(args: flags.FlagValues, words: list[str]) -> None:
  """Do the command that the first word names."""
  command, *arguments = words or [""]
  if command not in COMMANDS:
    raise UserError(f"expected a command, one of {', '.join(COMMANDS)}, got {command!r}")
  if arguments and command not in ("start", "watch"):
    raise UserError(f"{command} takes no arguments of {terminal.command('train')}, got {arguments[0]!r}")
  if command in ("start", "watch") and not list(options(arguments, "workdir")):
    raise UserError(
        f"{command}: give the arguments of {terminal.command('train')} after --, with a --workdir that all machines "
        "see")
  machines = Machines(args.name, args.zone, args.project, args.type, args.version, args.slices, args.spot,
                      args.reserved, args.valid_until, tuple(args.create_flag), tuple(args.ssh_flag))
  gcloud, code = Gcloud(machines, args.dry_run), Code(args.source, args.revision, args.setup)
  if command == "install":
    gcloud.install(code)
  elif command == "start":
    gcloud.start(arguments)
  elif command == "watch":
    gcloud.watch(code, arguments, args.interval)
  elif command == "status":
    state = gcloud.state()
    print(f"# {args.name} is {state}")
    for what, line in gcloud.runs():
      print(f"{what}: {line}")
  else:
    getattr(gcloud, command)()


COMMAND = Command(main, define_flags, required=("name", "zone"), words=True)
