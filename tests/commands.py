"""Commands in this process, which costs no start of another one: flags, streams and exit code are their own."""

import contextlib
import importlib
import io
import os
import subprocess
from pathlib import Path

from absl import logging
from absl.testing import flagsaver

from nova_jax.cli import Command

ROOT = Path(__file__).resolve().parents[1]


def run(command: str | Command, *args) -> subprocess.CompletedProcess:
  """Run a command, by name or itself, as if a user had typed it in the repository's root."""
  if isinstance(command, str):
    command = importlib.import_module(f"nova_jax.cli.{command}").COMMAND
  out, errors, verbosity, environment = io.StringIO(), io.StringIO(), logging.get_verbosity(), dict(os.environ)
  try:
    with flagsaver.flagsaver(), contextlib.chdir(ROOT), contextlib.redirect_stdout(out), (
        contextlib.redirect_stderr(errors)):
      code = command.execute(["command", *map(str, args)])
  finally:
    os.environ.clear()
    os.environ.update(environment)
    logging.set_verbosity(verbosity)
  return subprocess.CompletedProcess(args, code, out.getvalue(), errors.getvalue())
