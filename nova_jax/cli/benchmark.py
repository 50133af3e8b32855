"""Time NOVA on this machine.

Example:
  python -m launch.benchmark --json numbers.json

It times one training step and one generation of a model of middle size (`vit_d4w768`, `vit_d8w768`, `mlp_d3w768`; 4
frames of 4x32x32 latents, 16 sets of 25 diffusion steps, float32), the same generation with the presets fast and
faster, and what a frame costs in clips of 2 to 16. With --peer the published code does the same in turn. It takes some
minutes, and needs a machine that does nothing else; what --max_minutes is too short for is left out, and said.
"""

import json
import sys

from absl import flags

from nova_jax.cli.common_flags import define_json
from nova_jax.cli.entry import Command
from nova_jax.storage import as_path
from nova_jax.tools.versus_published.measure import TimeLeft, measure
from nova_jax.tools.versus_published.peer import Peer
from nova_jax.tools.versus_published.work import Work
from nova_jax.utils.files import check_writable, write_atomically
from nova_jax.utils.memory import keep_freed_memory

NUM_FRAMES = 4
FRAME_COUNTS = (2, 4, 8, 16)


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string(
      "peer", None, "Folder with a checkout of the published code, which is timed as well.", flag_values=values)
  flags.DEFINE_string(
      "peer_python", sys.executable, "Python interpreter that has the dependencies of --peer.", flag_values=values)
  flags.DEFINE_integer("repeats", 3, "Number of timed runs of each side.", lower_bound=1, flag_values=values)
  flags.DEFINE_float(
      "max_minutes", 8.5, "Minutes after which nothing more begins.", lower_bound=0.1, flag_values=values)
  define_json(values)


def main(args: flags.FlagValues) -> None:
  """Measure, print and write."""
  left = TimeLeft(60 * args.max_minutes)
  check_writable("json", args.json)
  keep_freed_memory()
  work = Work()
  peer = Peer(args.peer, args.peer_python, work) if args.peer else None
  results = measure(work, NUM_FRAMES, FRAME_COUNTS, args.repeats, peer, lambda line: print(line, flush=True), left)
  if peer is not None:
    peer.close()
  if args.json:
    write_atomically(as_path(args.json), json.dumps(results, indent=2) + "\n")


COMMAND = Command(main, define_flags, own_chips=True)
