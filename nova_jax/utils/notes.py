"""Notes for the user on how inputs were read, such as a prompt that was truncated, through `logging`.

Invariant: commands print each note once to stderr, whatever they show of other libraries' logs.
"""

import logging
import sys

_LOG = logging.getLogger("nova_jax")


def tell(note: str) -> None:
  """Emit a note for the user."""
  _LOG.warning("%s", note)


def print_once() -> None:
  """Print the notes of this process as commands do: "note: …"."""
  _LOG.handlers = [_Printer()]
  _LOG.propagate = False
  _LOG.setLevel(logging.WARNING)  # Otherwise the root's level would apply, with which commands hide other logs.


class _Printer(logging.Handler):

  def __init__(self):
    super().__init__()
    self._printed: set[str] = set()

  def emit(self, record: logging.LogRecord) -> None:
    text = record.getMessage()
    if text not in self._printed:
      self._printed.add(text)
      print(f"note: {text}", file=sys.stderr, flush=True)
