"""Train on TPU VMs: `python -m launch.tpu_vm COMMAND --name NAME --zone ZONE [-- arguments of launch.train]`.

  create   request the machines: --type v5litepod-256 --version v2-alpha-tpuv5-lite [--slices 2] [--spot]
  status   the request's state, and what each machine does
  install  copy this folder (or clone --source URL) onto all machines, and install it there
  start    train on all of them: -- --config=configs/digits.py --workdir=/mnt/shared/run
  log      follow the log of process 0
  stop     save a checkpoint and stop
  watch    all of this until the run is done, and again after each preemption
  delete   give the machines back

The workdir must be a folder that all machines see; --setup is a line of shell that mounts it.
"""

from absl import flags

from nova_jax import cli
from nova_jax.tpu_vm import Code, Gcloud, Machines

flags.DEFINE_string("name", None, "Of the queued resource, and of its machines.")
flags.DEFINE_string("zone", None, "Of the machines.")
flags.DEFINE_string("project", "", "Google Cloud project. Default: gcloud's own.")
flags.DEFINE_string("type", "", "Accelerator type, such as v5litepod-256.")
flags.DEFINE_string("version", "", "Runtime version, such as v2-alpha-tpuv5-lite.")
flags.DEFINE_integer("slices", 1, "How many of them, joined into one run.")
flags.DEFINE_bool("spot", False, "Cheaper machines, which may be taken back at any time.")
flags.DEFINE_bool("reserved", False, "Machines of a reservation.")
flags.DEFINE_string("valid_until", "", "How long to wait in the queue, such as 6h.")
flags.DEFINE_string("source", ".", "Folder with this code, or address of a git repository.")
flags.DEFINE_string("revision", "", "Of the git repository.")
flags.DEFINE_string("setup", "", "Line of shell to run on each machine before installing.")
flags.DEFINE_float("interval", 60.0, "Seconds between the looks that watch takes.", lower_bound=0)
flags.DEFINE_bool("dry_run", False, "Print the commands instead of running them.")

COMMANDS = ("create", "status", "install", "start", "log", "stop", "watch", "delete")


def main(words: list[str]) -> None:
  """Do the command that the first word names."""
  args = flags.FLAGS
  command, *arguments = words or [""]
  if command not in COMMANDS:
    raise ValueError(f"expected a command, one of {', '.join(COMMANDS)}, got {command!r}")
  if arguments and command not in ("start", "watch"):
    raise ValueError(f"{command} takes no arguments for launch.train, got {arguments[0]!r}")
  if command in ("start", "watch") and not any(word.startswith("--workdir") for word in arguments):
    raise ValueError(f"{command}: give the arguments of launch.train after --, with a --workdir that all machines see")
  machines = Machines(args.name, args.zone, args.project, args.type, args.version, args.slices, args.spot,
                      args.reserved, args.valid_until)
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


if __name__ == "__main__":
  cli.run(main, required=("name", "zone"), words=True)
