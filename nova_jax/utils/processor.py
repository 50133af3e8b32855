"""The name of this machine's processor, for notes beside what was measured on it."""

import platform
from pathlib import Path


def processor_name() -> str:
  """Return the processor's name, with its family and model where the system tells, since vendors reuse names."""
  about = Path("/proc/cpuinfo")
  try:
    lines = about.read_text(encoding="utf-8", errors="replace").splitlines()
  except OSError:  # Linux alone has this file.
    return platform.processor()
  first: dict[str, str] = {}
  for line in lines:
    name, _, value = line.partition(":")
    first.setdefault(name.strip(), value.strip())
  if "model name" not in first:
    return platform.processor()
  numbers = [f"{word} {first[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in first]
  return f"{first['model name']} ({', '.join(numbers)})" if numbers else first["model name"]
