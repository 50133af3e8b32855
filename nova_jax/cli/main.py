"""The command `nova-jax`: `nova-jax train --config digits --workdir runs/digits` runs the command `train`."""

import os
import signal
import sys

# As in `launch`: Ctrl-C during the imports of a command must not print a traceback, and worker processes, which import
# this file too, leave it to the command.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
  signal.signal(
      signal.SIGINT, signal.SIG_IGN if "--multiprocessing-fork" in sys.orig_argv else lambda *_: os._exit(130))

import importlib

import nova_jax
from nova_jax.cli.endings import run_program, tell
from nova_jax.cli.flag_help import wants_help
from nova_jax.utils.errors import BAD_INPUT
from nova_jax.utils.fields import did_you_mean

# The first line of each command's help, so that `--help` imports none of them.
COMMANDS = {
    "train": "Train NOVA.",
    "sample": "Generate pictures and videos from text, pictures or videos.",
    "demo": "Generate in a browser.",
    "evaluate": "Sample for a benchmark, or score the digits model.",
    "score": "Compute numbers from finished folders.",
    "sweep": "Run a sweep over settings, and write tables and plots of its results.",
    "convert": "Convert a model between the published format and ours, and publish it on the Hugging Face hub.",
    "encode": "Encode videos and pictures into latents, with an autoencoder alone.",
    "decode": "Decode latents into videos and pictures, with an autoencoder alone.",
    "cache": "Make a latent cache: encode videos and pictures once, so that training reads latents.",
    "inspect": "Look at a latent cache.",
    "status": "Say how a training run is doing.",
    "compile": "Compile for a TPU pod that isn't here, and say what would fit on it.",
    "benchmark": "Time NOVA on this machine.",
    "jobset": "Write a manifest for GKE, which trains on all hosts of a TPU slice.",
    "tpu_vm": "Train on TPU VMs: request machines, install this code on them, and start, watch and stop a run.",
}


def main() -> None:
  """Run the command that the command line names, and exit."""
  run_program(lambda: execute(sys.argv))


def execute(argv: list[str]) -> int:
  """Run the command that an argument list names within this process, and return the exit code."""
  name, *arguments = argv[1:] or ["--help"]
  if name == "--version":
    print(f"nova-jax {nova_jax.__version__}")
    return 0
  if wants_help(["nova-jax", name]):
    print(help_text(), end="")
    return 0
  name = name.replace("-", "_")
  if name not in COMMANDS:
    return tell(f"{name!r} is not a command{did_you_mean(name, list(COMMANDS))}", BAD_INPUT)
  return importlib.import_module(f"nova_jax.cli.{name}").COMMAND.execute([f"nova-jax {name}", *arguments])


def help_text() -> str:
  """Return what `nova-jax --help` prints."""
  width = max(map(len, COMMANDS))
  lines = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
  return f"""\
Train, sample and evaluate NOVA.

Example:
  nova-jax train --config digits --workdir runs/digits
  nova-jax sample --prompt "the digit seven moves up"

Commands:
{lines}

nova-jax COMMAND --help explains a command and all of its flags. --version prints the version.
"""
