"""Command-line programs: `python -m launch.<name> --help`."""

import os
import signal
import sys

# `python -m` imports this before the command, which then imports for seconds. Ctrl-C must not print a traceback of
# those imports. `nova_jax.cli.run` takes over from here. A shell's background jobs ignore Ctrl-C, and so they stay.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
  signal.signal(signal.SIGINT, lambda *_: os._exit(130))
