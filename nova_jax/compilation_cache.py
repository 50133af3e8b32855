"""Where compiled programs are kept from one start to the next."""

import hashlib
import os
import platform
from pathlib import Path

import jax

DEFAULT, OFF = "auto", "off"


def use(folder: str = DEFAULT, on_cpu: bool = False) -> None:
  """Keep compiled programs in a folder; call after JAX has found its devices.

  Args:
    folder: or gs:// address; "off" for none; "auto" for `~/.cache/nova_jax/programs` if that can be written, but none
      on CPU unless `on_cpu`. Programs for a TPU depend on its kind alone, which is part of the name that JAX gives an
      entry.
    on_cpu: keep programs on CPU too, also those that compile in less than a second. XLA's programs for a CPU have the
      instructions of the machine that compiled them, and may crash on another one that shares the home folder: each
      kind of processor has a folder of its own.
  """
  if folder == DEFAULT:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(cache, "nova_jax", "programs")
    if jax.default_backend() == "cpu":
      folder = os.path.join(folder, f"cpu-{processor()}") if on_cpu else OFF
    if folder != OFF and not _can_be_written(folder):
      folder = OFF
  if folder != OFF:
    jax.config.update("jax_compilation_cache_dir", folder)
    if on_cpu:
      jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _can_be_written(folder: str) -> bool:
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError:
    return False
  return os.access(folder, os.W_OK)


def processor() -> str:
  """Return a digest of what the processor can do: the same for machines that can run each other's programs."""
  about = Path("/proc/cpuinfo")
  lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else [platform.processor()]
  kinds = {line for line in lines if line.split("\t")[0] in ("flags", "Features", "model name", "cpu family", "model")}
  return hashlib.sha256("\n".join([platform.machine(), *sorted(kinds)]).encode()).hexdigest()[:12]
