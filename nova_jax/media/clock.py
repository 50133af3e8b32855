"""Times of frames for files in which they are missing or decrease."""

RATES = (0.1, 240.0)  # Plausible frames per second; other values in files are ignored.


def is_rate(rate: float | None) -> bool:
  """Return whether `rate` is a plausible number of frames per second."""
  return rate is not None and RATES[0] <= rate <= RATES[1]


class Clock:
  """Computes the time of each frame, in seconds from the beginning of the file.

  Args:
    rate: frames per second where times are missing.
    base: time at which the file begins; None for that of its first frame.
    careless: whether a small step back affects only one frame, so that the times after it are valid.
  """

  def __init__(self, rate: float, base: float | None, careless: bool):
    self._step, self._base, self._careless = 1 / rate, base, careless
    self._last: float | None = None

  def time(self, seen: float | None) -> float:
    """Return the time of the next frame, given its time `seen` in the file (None if missing)."""
    following = 0.0 if self._last is None else self._last + self._step
    if self._base is None and seen is not None:
      self._base = seen - following
    time = following if seen is None or self._base is None else seen - self._base
    # The times of joined clips restart.
    if self._last is not None and self._base is not None and time < self._last - 1:
      self._base -= following - time
      time = following
    elif self._last is not None and time <= self._last:
      time = self._last + self._step / (2 if self._careless else 1)
    self._last = time
    return time
