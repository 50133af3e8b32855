"""Downloads of models from the hub, into the cache that all users of the library `huggingface_hub` share.

  HF_HOME/hub/models--ORG--NAME/   refs/main   snapshots/COMMIT/…   blobs/DIGEST

Invariants: a file becomes a blob, and thus visible, when its digest has been checked. What was received of it before is
kept, so a download that was cut continues.
"""

import concurrent.futures
import functools
import glob
import hashlib
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nova_jax import pretrained
from nova_jax.checkpoints.components import PARTS
from nova_jax.checkpoints.hub.files import needed
from nova_jax.checkpoints.hub.ids import HubId, identity, parse_id
from nova_jax.checkpoints.hub.library import absent, hub_library, telling
from nova_jax.storage import as_path, join
from nova_jax.utils.errors import RunFailed, UserError
from nova_jax.utils.notes import tell
from nova_jax.utils.progress import Progress
from nova_jax.utils.terminal import say

_PIECE = 1 << 20  # Bytes that are digested at once.
_ATTEMPTS = 2  # Downloads of a file that arrives damaged.
_AT_ONCE = 4  # Files.


def local_folder(
    place: str | os.PathLike, parts: Collection[str] = PARTS, *, download: bool = True
) -> Path:
  """Return the local folder that a place stands for, and download what is missing there of a model on the hub.

  Args:
    place: path, which is returned itself, name of a model that comes with the package, or id of a model on the hub,
      ORG/NAME or ORG/NAME@REVISION.
    parts: names of the parts of the model whose weights are needed.
    download: whether what the cache lacks may be downloaded.

  Raises:
    UserError: the hub has no such model, or does not give it to this user.
    RunFailed: the hub can't be reached, or fails, or a file arrives damaged time and again.
  """
  named = parse_id(place)
  if named is None:
    return as_path(pretrained.find(place))
  library = hub_library()
  with telling(named, named.repo):
    revision = _resolve(named, download)
    folder = _cache_folder(named.repo) / "snapshots" / revision.resolved
    try:
      listed = {file.path for file in library.get_cached_repo_tree(named.repo, revision=revision)}
    except library.errors.CachedRepoTreeNotFoundError:
      listed = set()
    missing = [name for name in needed(listed, parts) if not (folder / name).exists()]
    if listed and not missing:
      return folder
    if not download or library.is_offline_mode():
      if not listed and folder.is_dir():  # By another program, which kept no list.
        return folder
      raise UserError(absent(named, f"{missing[0]} and {len(missing) - 1} other files" if missing[1:] else "it"))
    _download(named, revision, folder, parts)
  return folder


def pinned(place: str | os.PathLike, *, download: bool = True) -> str:
  """Return a place as it stands for the same files for ever: an id with its commit, or a path as it is.

  Arguments and errors are those of `local_folder`.
  """
  folder = local_folder(place, download=download)
  return identity(folder) or str(folder) if parse_id(place) else os.fspath(place)


def part_folder(place: str | os.PathLike, part: str, *, download: bool = True) -> Path:
  """Return the local folder of one part, which may lie in that of a model; arguments and errors as `local_folder`."""
  folder = local_folder(place, (part,), download=download)
  return folder / part if (folder / part).is_dir() else folder


def named_part(base: str | os.PathLike, name: str, part: str) -> Path:
  """Return the folder of a part that a model names in its folder, or a user.

  Args:
    base: folder of the model, whose parts are local; "" if a user names the part, whose word alone downloads anything.
    name: path, relative to `base`, or what `part_folder` takes of a user.
    part: name of the part.
  """
  return join(base, name) if os.fspath(base) or not parse_id(name) else part_folder(name, part)


@functools.cache
def _resolve(named: HubId, download: bool) -> Any:
  """Return the commit of an id, the same one as long as this process runs, and say which it is."""
  found = hub_library().HfApi().resolve_revision(named.repo, revision=named.revision, local_files_only=not download)
  if named.revision != found.resolved:
    say(f"{named} is commit {found.resolved[:12]}")
  return found


def _cache_folder(repo: str) -> Path:
  """Return the folder of a model in the cache."""
  from huggingface_hub import constants
  from huggingface_hub.file_download import repo_folder_name

  return Path(constants.HF_HUB_CACHE).expanduser().resolve() / repo_folder_name(repo_id=repo, repo_type="model")


def _download(named: HubId, revision: Any, folder: Path, parts: Collection[str]) -> None:
  """Download the files of a commit that are needed and not there."""
  library = hub_library()
  tree = library.HfApi().list_repo_tree(named.repo, recursive=True, revision=revision.resolved)
  files = {file.path: file for file in tree if isinstance(file, library.RepoFile)}
  wanted = needed(files, parts)
  if not wanted:
    raise UserError(
        f"{named}: {named.repo} on the hub holds no model that this program knows, but {len(files)} other files")
  missing = [files[name] for name in wanted if not (folder / name).exists()]
  # Small files first: they tell what the folder is, should the download be cut.
  missing.sort(key=lambda file: (file.lfs is not None, file.path))
  total = sum(file.size for file in missing)
  what = f"{len(missing)} files, {size_in_words(total)}"
  say(f"downloading {named} (commit {revision.resolved[:12]}): {what}, into {folder}")
  with Progress("B", total) as bar, concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
    counter = _Counter(bar, total)
    futures = [
        pool.submit(_fetch, named, revision.resolved, file, functools.partial(counter.show, file.path))
        for file in missing]
    try:
      for future in concurrent.futures.as_completed(futures):
        future.result()
    except BaseException:
      counter.stop()
      pool.shutdown(wait=True, cancel_futures=True)
      raise
  # Makes the links of the snapshot, and keeps the list of files for the next time.
  library.snapshot_download(
      named.repo, revision=revision, allow_patterns=[glob.escape(name) for name in wanted],
      tqdm_class=functools.partial(tqdm, disable=True))


def _fetch(named: HubId, commit: str, file: Any, show: Callable[[int], None]) -> None:
  """Download a file into the blobs of the cache, from where an earlier download of it ended.

  Args:
    named: model on the hub.
    commit: of the model.
    file: of the commit, a `RepoFile`.
    show: function that is called with the number of bytes that are there.
  """
  from huggingface_hub.utils import WeakFileLock

  cache, digest = _cache_folder(named.repo), file.blob_id if file.lfs is None else file.lfs.sha256
  blob = cache / "blobs" / digest
  lock = cache.parent / ".locks" / cache.name / f"{digest}.lock"
  partial = blob.with_name(f"{digest}.nova_jax.incomplete")
  blob.parent.mkdir(parents=True, exist_ok=True)
  lock.parent.mkdir(parents=True, exist_ok=True)
  with WeakFileLock(lock):
    if blob.exists():
      return
    for attempt in range(1, _ATTEMPTS + 1):
      _receive(named, commit, file, partial, show)
      if _digest(partial, is_large=file.lfs is not None) == digest:
        os.replace(partial, blob)
        return
      partial.unlink()
      if attempt < _ATTEMPTS:
        tell(f"{file.path} of {named} arrived damaged, and is downloaded again")
  raise RunFailed(
      f"{named}: {file.path} arrived damaged {_ATTEMPTS} times: its digest is not {digest}, as the hub says; a proxy "
      "or the disk may change it; the same command tries again")


def _receive(named: HubId, commit: str, file: Any, partial: Path, show: Callable[[int], None]) -> None:
  """Append to a file what it lacks."""
  from huggingface_hub import hf_hub_url
  from huggingface_hub.file_download import http_get
  from huggingface_hub.utils import build_hf_headers

  start = partial.stat().st_size if partial.exists() else 0
  if start > file.size:
    partial.unlink()
    start = 0
  # Without compression, of which a part can't be continued.
  headers = build_hf_headers() | {"Accept-Encoding": "identity"}
  bar: Any = functools.partial(_Bar, show)
  with partial.open("ab") as target:
    http_get(
        hf_hub_url(named.repo, file.path, revision=commit), target, resume_size=start, headers=headers,
        expected_size=file.size, tqdm_class=bar)


class _Counter:
  """Adds up how much of each file is there; safe for threads."""

  def __init__(self, bar: Progress, total: int):
    self._bar, self._total, self._done = bar, total, dict[str, int]()
    self._lock, self._stopped = threading.Lock(), False

  def show(self, name: str, done: int) -> None:
    """Show that `done` bytes of a file are there; ends the thread that calls it when others have failed."""
    with self._lock:
      if self._stopped:
        raise RunFailed("another file could not be downloaded")
      self._done[name] = done
      self._bar.show(sum(self._done.values()), self._total, name)

  def stop(self) -> None:
    """Let all threads end at their next piece."""
    self._stopped = True


class _Bar:
  """What the library takes for a tqdm bar."""

  def __init__(self, show: Callable[[int], None], *, initial: int = 0, **_: Any):
    self._show, self._done = show, initial

  def __enter__(self) -> "_Bar":
    self.update(0)
    return self

  def __exit__(self, *_) -> None:
    pass

  def update(self, more: float | None = 1) -> None:
    self._done += int(more or 0)
    self._show(self._done)


def _digest(path: Path, is_large: bool) -> str:
  """Return the digest by which the hub knows a file: SHA-256 of a large one, else that of git."""
  size = path.stat().st_size
  content = hashlib.sha256() if is_large else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
  with path.open("rb") as file:
    while piece := file.read(_PIECE):
      content.update(piece)
  return content.hexdigest()


def size_in_words(num_bytes: int) -> str:
  """Return a size in words."""
  unit, name = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if num_bytes >= pair[0]), (1e3, "kB"))
  return f"{num_bytes / unit:.3g} {name}"
