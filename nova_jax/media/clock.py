"""The times of frames, which some files leave out, or let go back."""

RATES = (0.1, 240.0)  # Frames a second that are believed: nothing that is watched was recorded beyond.


def is_rate(rate: float | None) -> bool:
  """Return whether something may have been recorded at so many frames a second."""
  return rate is not None and RATES[0] <= rate <= RATES[1]


class Clock:
  """Tells at which time each frame is shown, in seconds from the file's beginning.

  Args:
    rate: frames a second where times are missing.
    base: the time at which the file begins; None for that of its first frame.
    careless: a small step back is of one frame, and those after it are right again.
  """

  def __init__(self, rate: float, base: float | None, careless: bool):
    self._step, self._base, self._last, self._careless = 1 / rate, base, None, careless

  def time(self, seen: float | None) -> float:
    """Return the time of the next frame in order, of which the file says that it is shown at `seen`."""
    following = 0.0 if self._last is None else self._last + self._step
    if self._base is None and seen is not None:
      self._base = seen - following
    time = following if seen is None else seen - self._base
    if self._last is not None and time < self._last - 1:  # Clips that were joined start again.
      self._base -= following - time
      time = following
    elif self._last is not None and time <= self._last:
      time = self._last + self._step / (2 if self._careless else 1)
    self._last = time
    return time
