"""Lines for the user. Failing to print one does not end the work, since the terminal may be closed or the disk full.

Commands print them. A program that uses the package as a library is not printed at: it gets them from the logger
"nova_jax", at the level INFO.
"""

import logging
import os
import sys

_LOG = logging.getLogger("nova_jax")
_prints = False


def print_lines() -> None:
  """Print lines to stdout from now on, as commands do."""
  global _prints
  _prints = True


def command(name: str) -> str:
  """Return how a user types one of our commands: as this one was typed."""
  return f"nova-jax {name}" if os.path.basename(sys.argv[0]).startswith("nova-jax") else f"python -m launch.{name}"


def say(text: str, end: str = "\n") -> None:
  """Print a line, or log it in a library. If printing fails, report it once on stderr and print nothing more.

  Args:
    text: the line.
    end: text after it. A piece of a line, such as a progress bar, is never logged.
  """
  if not _prints:
    if end == "\n":
      _LOG.info("%s", text)
    return
  try:
    try:
      print(text, end=end, flush=True)
    except UnicodeEncodeError:  # The locale lacks these letters.
      encoding = sys.stdout.encoding
      print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, flush=True)
  except OSError as error:
    _give_up(error)


def _give_up(error: OSError) -> None:
  null = open(os.devnull, "w", encoding="utf-8")
  try:
    os.dup2(null.fileno(), sys.stdout.fileno())  # Buffered output needs a target when the program ends.
  except (OSError, ValueError):  # stdout has no file, or is closed.
    pass
  sys.stdout = null
  try:
    print(f"note: stdout can't be written ({error.strerror}); the work goes on without it", file=sys.stderr, flush=True)
  except OSError:
    pass
