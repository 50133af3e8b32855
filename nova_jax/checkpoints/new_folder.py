"""The folder of a converted model, which is never seen half written.

On a disk it is renamed into place. In a bucket its files are uploaded one by one, and the one that makes it a model
(`nova.json`, or `model_index.json` of a published one) comes last.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from nova_jax.checkpoints import export, model_card
from nova_jax.checkpoints.components import PARTS
from nova_jax.checkpoints.model_folder import TOKENIZER
from nova_jax.checkpoints.published_files import INDEX, SCHEDULER
from nova_jax.storage import is_remote, names_below, upload
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_folder
from nova_jax.utils.lease import NAME, Taken, held
from nova_jax.utils.notes import tell

_LAST = (model_card.NAME, INDEX)
_OTHERS = (*PARTS, TOKENIZER, os.path.dirname(SCHEDULER), export.NAME, NAME)


def is_taken(target: Path) -> bool:
  """Return whether a folder holds anything but, in a bucket, a model that was not uploaded to its end."""
  if is_remote(target):
    return any(name in _LAST or name.partition("/")[0] not in _OTHERS for name in names_below(target))
  return any(target.iterdir())


@contextlib.contextmanager
def new_folder(target: Path, num_bytes: int) -> Generator[Path]:
  """Yield a temporary folder that becomes `target` at the end, or is removed on any error.

  Raises:
    UserError: another process is writing or has created `target`, or the disk is too small.
  """
  if is_remote(target):
    with _uploading(target, num_bytes) as folder:
      yield folder
    return
  target = target.absolute()
  check_folder("target", target.parent)
  free = shutil.disk_usage(next(folder for folder in target.parents if folder.is_dir())).free
  if free < num_bytes:
    raise UserError(f"target: {target} needs {num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_name(f".{target.name}.partial")
  partial.mkdir(exist_ok=True)
  lock = os.open(partial, os.O_RDONLY)
  try:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # The lock ends with the process, however that ends.
    except BlockingIOError:
      raise UserError(f"target: another process is writing {target}") from None
    for left in partial.iterdir():  # Left by a process that was killed.
      shutil.rmtree(left) if left.is_dir() else left.unlink()
    try:
      yield partial
      try:
        os.replace(partial, target)
      except OSError:
        raise UserError(f"target: {target} was made by someone else meanwhile") from None
    except BaseException:
      shutil.rmtree(partial, ignore_errors=True)
      raise
  finally:
    os.close(lock)


@contextlib.contextmanager
def _uploading(target: Path, num_bytes: int) -> Generator[Path]:
  check_folder("target", target)
  with tempfile.TemporaryDirectory(prefix="nova_jax-") as folder:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
      raise UserError(f"target: {target} needs {num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {folder}")
    yield Path(folder)
    try:
      with held(target, tell):
        for name in sorted(names_below(Path(folder)), key=lambda name: (name in _LAST, name)):
          upload(Path(folder) / name, target / name)
    except Taken as error:
      raise UserError(f"target: {error} is writing {target}") from None
