"""Where compiled programs are kept from one start to the next.

JAX warns of an entry that it can't read, compiles the program, and never writes over the entry; so a file that was cut
is warned of at every start. Here the first warning removes what is damaged, before JAX writes the program anew.
"""

import hashlib
import os
import platform
import re
import sys
import warnings
import zlib
from pathlib import Path

import jax
from etils import epath

DEFAULT, OFF = "auto", "off"


def use(folder: str = DEFAULT, on_cpu: bool = False) -> None:
  """Keep compiled programs in a folder; call after JAX has found its devices.

  Args:
    folder: or gs:// address; "off" for none; "auto" for `~/.cache/nova_jax/programs`, but none on CPU unless
      `on_cpu`. One that can't be written is said, and none is used. Programs for a TPU depend on its kind alone, which
      is part of the name that JAX gives an entry.
    on_cpu: keep programs on CPU too, also those that compile in less than a second. XLA's programs for a CPU have the
      instructions of the machine that compiled them, and may crash on another one that shares the home folder: each
      kind of processor has a folder of its own.
  """
  if folder == DEFAULT:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(cache, "nova_jax", "programs")
    if jax.default_backend() == "cpu":
      folder = os.path.join(folder, f"cpu-{processor()}") if on_cpu else OFF
  if folder == OFF:
    return
  reason = None if "://" in folder else _why_not(folder)
  if reason:
    print(f"note: compiled programs are not kept: {folder}: {reason}", file=sys.stderr)
    return
  jax.config.update("jax_compilation_cache_dir", folder)
  if on_cpu:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  _Mender(folder).install()


def _why_not(folder: str) -> str | None:
  """Return why nothing can be written to a folder, which is made; None if it can."""
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    return error.strerror
  return None if os.access(folder, os.W_OK) else "it can't be written"


class _Mender:
  """Hears of JAX's warnings about the folder of programs; removes entries that are damaged, and says so once."""

  _WARNING = r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)"

  def __init__(self, folder: str):
    self.folder = epath.Path(folder)
    self.said: set[str] = set()

  def install(self) -> None:
    """Begin to listen; other warnings are shown as before."""
    show = warnings.showwarning

    def listen(message, *arguments, **more):
      match = re.match(self._WARNING, str(message), re.DOTALL)
      self.hear(*match.groups()) if match else show(message, *arguments, **more)

    warnings.showwarning = listen
    warnings.filterwarnings("always", self._WARNING)  # Else the second of its kind would not be heard of.

  def hear(self, doing: str, module: str, reason: str) -> None:
    """Mend after a warning.

    Args:
      doing: "reading" or "writing".
      module: the program's name, with which the names of its entries begin.
      reason: the type of an error and its text.
    """
    try:
      removed = [path for path in self.folder.glob("*-cache") if _is_damaged(path)]
      if doing == "reading" and not removed and "[Errno" not in reason:
        removed = list(self.folder.glob(f"{module}-*-cache"))  # Whole, but of no use to JAX.
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
      print(f"note: {note}", file=sys.stderr)
    self.said.add(kind)


def _is_damaged(path: epath.Path) -> bool:
  """Whether an entry was cut or changed: it has a checksum. One that is gone, or packed in another way, is not."""
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
  """Return a digest of what the processor can do: the same for machines that can run each other's programs."""
  about = Path("/proc/cpuinfo")
  lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else [platform.processor()]
  kinds = {line for line in lines if line.split("\t")[0] in ("flags", "Features", "model name", "cpu family", "model")}
  return hashlib.sha256("\n".join([platform.machine(), *sorted(kinds)]).encode()).hexdigest()[:12]
