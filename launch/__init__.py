"""Command-line programs: `python -m launch.<name> --help`."""

import os
import signal
import sys

# `python -m`, and each of the worker processes that a command starts, import this before the command itself, which then
# imports for seconds. Ctrl-C must not print a traceback of those imports. A command takes over by
# `nova_jax.cli.Command.run`; workers end with it. A shell's background jobs ignore Ctrl-C, and so they stay.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
  if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
  elif "--multiprocessing-fork" in sys.orig_argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
