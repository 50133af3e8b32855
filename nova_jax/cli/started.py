"""When this process began: the imports, which take seconds, are a part of what a user waits for."""

import os
import time
from pathlib import Path

_IMPORTED = time.perf_counter()


def seconds_since_start() -> float:
  """Return the seconds since this process was started; where the system doesn't say, since this module was imported."""
  try:
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
  except (AttributeError, OSError):
    return time.perf_counter() - _IMPORTED
