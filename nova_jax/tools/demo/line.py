"""The line of those who wait for the model, in the order in which they came.

Invariants: the line has a largest length, and nobody takes more than a share of it. Whoever leaves without a word, as a
browser that was closed, is forgotten after a while.
"""

import contextlib
import threading
import time
from collections.abc import Generator

from nova_jax.utils.errors import UserError

_PATIENCE = 60.0  # Seconds without a look at the line, after which somebody has left it.


class Ticket:
  """One place in a line."""

  def __init__(self, line: "Line", user: str):
    self._line, self.user, self.valid_until = line, user, time.monotonic() + _PATIENCE

  def before(self) -> int:
    """Return how many are served before this one; with 0 it is served now, for as long as the line allows."""
    return self._line.look(self)


class Line:
  """A line with limits.

  Args:
    longest: how many may be in it, those that are served included.
    each: how many places one user may take.
    seconds: how long one may be served, at most.
  """

  def __init__(self, longest: int, each: int, seconds: float):
    self._longest, self._each, self._seconds = longest, each, seconds
    self._tickets: list[Ticket] = []
    self._lock = threading.Lock()

  @contextlib.contextmanager
  def join(self, user: str) -> Generator[Ticket]:
    """Stand in the line as long as the block lasts.

    Raises:
      UserError: the line is full, or this user is in it too often.
    """
    ticket = Ticket(self, user)
    with self._lock:
      self._forget_gone()
      if len(self._tickets) >= self._longest:
        raise UserError(f"all {self._longest} places are taken; try again in a while")
      if sum(other.user == user for other in self._tickets) >= self._each:
        raise UserError(f"you are waiting for {self._each} already; let these end, or cancel them")
      self._tickets.append(ticket)
    try:
      yield ticket
    finally:
      with self._lock:
        if ticket in self._tickets:
          self._tickets.remove(ticket)

  def look(self, ticket: Ticket) -> int:
    """Return how many are before a ticket; it keeps its place by looking."""
    with self._lock:
      self._forget_gone()
      if ticket not in self._tickets:
        raise UserError("this request was forgotten, since nobody asked for it; start it again")
      before = self._tickets.index(ticket)
      ticket.valid_until = max(ticket.valid_until, time.monotonic() + _PATIENCE + (0 if before else self._seconds))
      return before

  def _forget_gone(self) -> None:
    now = time.monotonic()
    self._tickets = [ticket for ticket in self._tickets if now < ticket.valid_until]
