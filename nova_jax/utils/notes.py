"""What a person should know of how a thing was read, such as a prompt that was cut: in Python by `logging`.

Invariant: the launchers print each note to stderr, once, whatever they show of other libraries' logs.
"""

import logging
import sys

_LOG = logging.getLogger("nova_jax")


def tell(note: str) -> None:
  """Tell a person."""
  _LOG.warning("%s", note)


def print_once() -> None:
  """Print notes of this process as the launchers do: "note: …"."""
  _LOG.handlers, _LOG.propagate = [_Printer()], False
  _LOG.setLevel(logging.WARNING)  # Else it would have the root's level, by which launchers hide other logs.


class _Printer(logging.Handler):

  def __init__(self):
    super().__init__()
    self._printed: set[str] = set()

  def emit(self, record: logging.LogRecord) -> None:
    text = record.getMessage()
    if text not in self._printed:
      self._printed.add(text)
      print(f"note: {text}", file=sys.stderr, flush=True)
