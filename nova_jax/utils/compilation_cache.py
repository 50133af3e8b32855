"""The persistent cache of compiled programs.

When JAX can't read an entry, it warns, compiles the program and keeps the old entry, so that a truncated file causes a
warning at every start. Here the first warning removes damaged entries before JAX writes the program again.
"""

import hashlib
import os
import platform
import re
import warnings
import zlib
from pathlib import Path

import jax
from etils import epath

from nova_jax.utils.files import cache_folder
from nova_jax.utils.notes import tell

DEFAULT, OFF = "auto", "off"


def use(folder: str = DEFAULT, on_cpu: bool = False, shared: str = "") -> None:
  """Cache compiled programs in a folder; call it after JAX has found its devices.

  If the folder can't be written, a note says so and nothing is cached.

  Args:
    folder: folder or gs:// address; "off" for no cache; "auto" for `~/.cache/nova_jax/programs`, but no cache on CPU
      unless `on_cpu`. Programs for a TPU depend only on its kind, which is part of the name of an entry.
    on_cpu: whether to cache programs on CPU, including those that compile in less than a second. Programs for a CPU use
      the instructions of the machine that compiled them, and may crash on another one that shares the home folder, so
      each kind of processor has its own folder.
    shared: folder that all processes of a run see, which "auto" then stands for where there are several, not on CPU:
      JAX writes programs in process 0 alone, and the others would compile them at each restart.
  """
  if folder == DEFAULT:
    folder = str(cache_folder() / "programs")
    if shared and jax.process_count() > 1 and jax.default_backend() != "cpu":
      folder = shared
    elif jax.default_backend() == "cpu":
      folder = os.path.join(folder, f"cpu-{processor()}") if on_cpu else OFF
  if folder == OFF:
    return
  reason = None if "://" in folder else _why_not(folder)
  if reason:
    tell(f"compiled programs are not kept: {folder}: {reason}")
    return
  jax.config.update("jax_compilation_cache_dir", folder)
  if on_cpu:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  _Mender(folder).install()


def _why_not(folder: str) -> str | None:
  """Create a folder, and return the reason why it can't be written; None if it can."""
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    return error.strerror
  return None if os.access(folder, os.W_OK) else "it can't be written"


class _Mender:
  """Intercepts JAX's warnings about the cache, removes damaged entries, and reports them once."""

  _WARNING = r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)"

  def __init__(self, folder: str):
    self.folder = epath.Path(folder)
    self.said: set[str] = set()

  def install(self) -> None:
    """Start to intercept warnings; other warnings are shown as before."""
    show = warnings.showwarning

    def listen(message, *arguments, **more):
      match = re.match(self._WARNING, str(message), re.DOTALL)
      self.hear(*match.groups()) if match else show(message, *arguments, **more)

    warnings.showwarning = listen  # ty: ignore[invalid-assignment] (passes on all that it is given)
    warnings.filterwarnings("always", self._WARNING)  # Otherwise Python would suppress the second warning of this kind.

  def hear(self, doing: str, module: str, reason: str) -> None:
    """Handle one warning.

    Args:
      doing: operation that failed, "reading" or "writing".
      module: name of the program, which is the prefix of its entries.
      reason: type and text of the error.
    """
    try:
      removed = [path for path in self.folder.glob("*-cache") if _is_damaged(path)]
      if doing == "reading" and not removed and "[Errno" not in reason:
        removed = list(self.folder.glob(f"{module}-*-cache"))  # Intact entries that JAX can't use.
      for path in removed:
        path.unlink(missing_ok=True)
    except OSError as error:
      removed, reason = [], f"{error.strerror}; {reason}"
    if removed and doing == "reading":
      self._say(f"{len(removed)} damaged programs in {self.folder} are compiled and kept anew", "damaged")
    else:
      self._say(f"programs can't be kept in {self.folder}: {' '.join(reason.split())[:200]}", doing)

  def _say(self, note: str, kind: str) -> None:
    if kind not in self.said:
      tell(note)
    self.said.add(kind)


def _is_damaged(path: epath.Path) -> bool:
  """Return whether an entry was truncated or changed, by its checksum; false if it is missing or not Zstandard."""
  try:
    content = path.read_bytes()
  except OSError:
    return False
  try:
    if not content.startswith(b"\x28\xb5\x2f\xfd"):  # Zstandard's.
      zlib.decompress(content)
  except zlib.error:
    return True
  return False


def processor() -> str:
  """Return a digest of the processor's features, which is equal for machines that can run each other's programs."""
  about = Path("/proc/cpuinfo")
  lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else [platform.processor()]
  kinds = {line for line in lines if line.split("\t")[0] in ("flags", "Features", "model name", "cpu family", "model")}
  return hashlib.sha256("\n".join([platform.machine(), *sorted(kinds)]).encode()).hexdigest()[:12]
