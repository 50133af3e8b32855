"""Where compiled programs are kept from one start to the next."""

import os

import jax

DEFAULT, OFF = "auto", "off"


def use(folder: str = DEFAULT) -> None:
  """Keep compiled programs in a folder; call after JAX has found its devices.

  Args:
    folder: or gs:// address; "off" for none; "auto" for `~/.cache/nova_jax/programs`, but none on CPU: XLA's programs
      for a CPU have the instructions of the machine that compiled them, and may crash on another one that shares the
      home folder. Programs for a TPU depend on its kind alone, which is part of the name that JAX gives an entry.
  """
  if folder == DEFAULT:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = OFF if jax.default_backend() == "cpu" else os.path.join(cache, "nova_jax", "programs")
  if folder != OFF:
    jax.config.update("jax_compilation_cache_dir", folder)
