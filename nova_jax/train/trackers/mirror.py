"""Files that grow, in a bucket."""

import contextlib
import tempfile
from pathlib import Path

from nova_jax.storage import is_remote, upload
from nova_jax.utils.terminal import say


class Mirror:
  """The folder in which log files are written: the workdir, or a local one whose files are sent to it in a bucket.

  An object can't be appended to. What can't be sent waits for the next line, like lines for a full disk.

  Attributes:
    local: the folder to write to.
  """

  def __init__(self, workdir: Path):
    """Make the folder, with the lines that a workdir in a bucket has."""
    self.local, self._workdir, self._folder, self._error = workdir, workdir, None, None
    self._sent: dict[Path, int] = {}
    if is_remote(workdir):
      self._folder = tempfile.TemporaryDirectory(prefix="nova_jax-")
      self.local = Path(self._folder.name)
      with contextlib.suppress(FileNotFoundError):  # A new run has none.
        (self.local / "metrics.jsonl").write_bytes((workdir / "metrics.jsonl").read_bytes())

  def send(self) -> None:
    """Upload the files that grew."""
    if self._folder is None:
      return
    try:
      for path in sorted(path for path in self.local.rglob("*") if path.is_file()):
        size = path.stat().st_size
        if self._sent.get(path) != size:
          upload(path, self._workdir / path.relative_to(self.local))
          self._sent[path] = size
    except OSError as error:
      if self._error is None:
        say(f"note: {self._workdir}: metrics can't be uploaded ({error.strerror}); training goes on, and they wait")
      self._error = error
    else:
      self._error = None

  def close(self) -> None:
    """Upload what is left; errors as of `Trackers.close`."""
    self.send()
    if self._folder is not None:
      self._folder.cleanup()
    if self._error is not None:
      raise OSError(self._error.errno, f"{self._error.strerror}; its last lines are lost", self._error.filename)
