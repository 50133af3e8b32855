"""Generate in a browser.

Example:
  python -m launch.demo --checkpoint runs/digits

Open the address that it prints. All users share one model and wait in one line. The page is served to this machine
alone, unless --host says otherwise; then give it a --password_file. --output should be a folder of its own, since the
oldest clips in it are removed when there are too many. It needs Gradio, the extra `demo`.
"""

import importlib.util
import os

from absl import flags

from nova_jax.checkpoints.hub import pinned
from nova_jax.cli import sampling_flags
from nova_jax.cli.checkpoint_flags import checkpoint, define_checkpoint, define_step, step
from nova_jax.cli.common_flags import define_compilation_cache
from nova_jax.cli.entry import Command
from nova_jax.pipeline.loading import load_pipeline
from nova_jax.tools.demo.studio import Bounds, Studio
from nova_jax.tools.demo.users import read_users
from nova_jax.utils import compilation_cache
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_folder_writable


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  define_checkpoint(values)
  flags.DEFINE_string("output", "out/demo", "Folder that clips are written to.", flag_values=values)
  flags.DEFINE_string(
      "host", "127.0.0.1", "Address of this machine to serve at; 0.0.0.0 means all of its addresses.",
      flag_values=values)
  flags.DEFINE_integer(
      "port", 7860, "Port to serve at, a number from 1 to 65535.", lower_bound=1, upper_bound=65535, flag_values=values)
  flags.DEFINE_integer(
      "max_frames", 256, "Number of frames of the longest clip that may be asked for.", lower_bound=1,
      flag_values=values)
  flags.DEFINE_string(
      "password_file", None, "File of NAME:PASSWORD, one a line; only these users are let in. Default: everybody is.",
      flag_values=values)
  flags.DEFINE_float(
      "max_seconds", 900.0, "Seconds that a generation may take; then it ends without a file.", lower_bound=1,
      flag_values=values)
  flags.DEFINE_integer(
      "max_waiting", 16, "Number of generations that may wait at once, the running one included.", lower_bound=1,
      flag_values=values)
  flags.DEFINE_integer(
      "max_each", 4, "Number of generations of one user or address among them.", lower_bound=1, flag_values=values)
  flags.DEFINE_float(
      "max_gigabytes", 10.0,
      "Gigabytes that clips and uploads in --output may take together; beyond it, the oldest ones are removed.",
      lower_bound=0.1, flag_values=values)
  define_step(values)
  sampling_flags.define_model_flags(values)
  define_compilation_cache(values)


def main(args: flags.FlagValues) -> None:
  """Load the model and serve the page."""
  if importlib.util.find_spec("gradio") is None:
    raise UserError("gradio is not installed: pip install gradio, or nova_jax with its extra demo")
  # Gradio counts its users and looks for newer versions unless it is told not to, before it is imported.
  os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
  from nova_jax.tools.demo.page import serve
  users = read_users(args.password_file) if args.password_file else ()
  output = check_folder_writable("output", args.output)
  compilation_cache.use(args.compilation_cache, on_cpu=True)
  model = pinned(checkpoint(args))
  pipe = load_pipeline(
      model, weights=args.weights, step=step(args), dtype=args.dtype, lora=sampling_flags.loras(args),
      quantize=sampling_flags.quantize(args), guide=args.guide)
  bounds = Bounds(
      args.max_frames, args.max_seconds, args.max_waiting, args.max_each, round(args.max_gigabytes * 1e9))
  serve(Studio(pipe, model, args.weights, output, bounds, step=args.step), args.host, args.port, users=users)


COMMAND = Command(main, define_flags, own_chips=True)
