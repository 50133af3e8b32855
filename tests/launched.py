"""Command lines in processes of their own, forked from one that has imported what takes long.

A launcher starts in a tenth of a second instead of several; flags, streams and exit codes are its own as if a user had
typed it. Before JAX looks for devices a fork is safe: it has no threads yet.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([
    "nova_jax.pipeline.batch_sampling", "nova_jax.train.nova", "nova_jax.evals.benchmarks.evaluate",
    "ml_collections.config_flags"])


def launch(program, *args, timeout=300, **environment):
  """Run a module (`python -m`) or the path of a file in the repository's root; return how it ended and what it said."""
  argv = [*map(str, (program, *args))]
  with tempfile.TemporaryDirectory() as folder:
    streams = [Path(folder) / name for name in ("out", "err")]
    process = _processes.Process(target=_run, args=(argv, streams, os.environ | environment))
    process.start()
    process.join(timeout)
    if process.is_alive():
      process.kill()
      process.join()
      raise subprocess.TimeoutExpired(argv, timeout)
    return subprocess.CompletedProcess(argv, process.exitcode, *(path.read_text(encoding="utf-8") for path in streams))


def _run(argv, streams, environment):
  os.environ.clear()
  os.environ.update(environment)
  os.chdir(ROOT)
  for path, number in zip(streams, (1, 2), strict=True):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
  sys.argv = argv
  sys.path.insert(0, str(ROOT))
  if argv[0].endswith(".py"):
    runpy.run_path(argv[0], run_name="__main__")
  else:
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
