"""Write a manifest for GKE, which trains on all hosts of a TPU slice.

Example:
  python -m launch.jobset --topology v6e:8x8 --image REGION-docker.pkg.dev/PROJECT/REPO/nova_jax:TAG -- \\
      --config=nova_d48w1024_sd512:v6e --workdir=gs://BUCKET/runs/sd512 | kubectl apply -f -

It prints a JobSet, whose number of hosts follows from the topology. Arguments of launch.train follow after --. A lost
host starts all of them again, and the run continues from its last checkpoint; bad input is never tried again.
"""

from absl import flags

from nova_jax.cli.entry import Command
from nova_jax.cli.overrides import options
from nova_jax.storage import is_remote
from nova_jax.tools.jobset import Cluster, render
from nova_jax.utils.errors import UserError
from nova_jax.utils.terminal import command


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string(
      "topology", None, "Slice to train on, such as v5e:16x16, v4:4x4x4, or v5e:16x16*2 for two slices.",
      flag_values=values)
  flags.DEFINE_string(
      "image", None, "Container image, built from the stage tpu of launch/Dockerfile.", flag_values=values)
  flags.DEFINE_string("name", "nova", "Name of the JobSet.", flag_values=values)
  flags.DEFINE_string("queue", "", "LocalQueue of Kueue. Default: the cluster has no Kueue.", flag_values=values)
  flags.DEFINE_string(
      "service_account", "nova", "Service account of Kubernetes, which may read and write the bucket.",
      flag_values=values)
  flags.DEFINE_bool(
      "spot", False, "Whether to use spot machines, which may be taken back at any time.", flag_values=values)
  flags.DEFINE_integer(
      "restarts", 50, "Number of times that all hosts are started again after a loss.", lower_bound=0,
      flag_values=values)


def main(args: flags.FlagValues, words: list[str]) -> None:
  """Print the manifest."""
  from nova_jax.tools.aot.topology import parse_topology

  for name in ("config", "workdir"):
    if not list(options(words, name)):
      raise UserError(
          f"give the arguments of {command('train')} after --, with --config and --workdir; --{name} is missing")
  for _, (_, workdir) in options(words, "workdir"):
    if not is_remote(workdir):
      raise UserError(
          f"--workdir: the hosts of a JobSet share no disk, and keep none when they are lost; expected an address such "
          f"as gs://BUCKET/runs/NAME, got {workdir!r}")
  cluster = Cluster(args.image, args.name, args.queue, args.service_account, args.spot, args.restarts)
  print(render(parse_topology(args.topology), cluster, words), end="")


COMMAND = Command(main, define_flags, required=("topology", "image"), words=True)
