"""Uploads of model folders to the hub.

Invariants: nothing is sent before all weights were read and found whole. The files appear on the hub together, and what
an upload that failed had sent is not sent again. No file names a path of this machine.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Generator, Mapping
from pathlib import Path

from nova_jax.checkpoints import export, lora, model_card
from nova_jax.checkpoints.components import PARTS
from nova_jax.checkpoints.hub import card
from nova_jax.checkpoints.hub.download import size_in_words
from nova_jax.checkpoints.hub.files import needed
from nova_jax.checkpoints.hub.ids import identity, is_repository
from nova_jax.checkpoints.hub.library import hub_library, telling
from nova_jax.checkpoints.load import check_complete
from nova_jax.checkpoints.lora import Lora
from nova_jax.checkpoints.model_folder import Folder, is_trained, open_folder
from nova_jax.checkpoints.part_digest import Digest, check_same
from nova_jax.checkpoints.published_files import INDEX
from nova_jax.checkpoints.weight_files import CONFIG
from nova_jax.storage import is_remote, local_copy, names_below
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import read_json, write_atomically
from nova_jax.utils.finite import is_finite
from nova_jax.utils.notes import tell
from nova_jax.utils.terminal import say

SAMPLES = "samples"
_PICTURES = (".png", ".gif", ".webp", ".jpg", ".mp4")
_MAX_PICTURES = 4  # The newest ones of a run.
_LICENSES = ("LICENSE", "LICENSE.md", "LICENSE.txt")
# JSON files of a model's own folder; others beside them are not pushed.
_OF_FOLDER = (INDEX, CONFIG, export.NAME, model_card.NAME, lora.OURS, lora.CONFIG)
# Fields that may hold the path of a folder on this machine, by the file's name, in whatever folder.
_PLACES: Mapping[str, str] = {
    INDEX: "_name_or_path", CONFIG: "_name_or_path", "scheduler_config.json": "_name_or_path",
    "tokenizer_config.json": "name_or_path", model_card.NAME: "source", lora.OURS: "base",
    lora.CONFIG: "base_model_name_or_path"}


def check_may_push(repo: str) -> None:
  """See that a name can be that of a model on the hub, and that the hub knows the user, before any work is done.

  Raises:
    UserError: another name, or no valid token.
    RunFailed: the hub can't be reached.
  """
  if not is_repository(repo):
    raise UserError(f"push: expected ORG/NAME, the name of a model on the Hugging Face hub, got {repo!r}")
  library = hub_library()
  with telling(f"--push={repo}", repo, sends=True):
    if library.is_offline_mode():
      raise UserError(f"--push={repo}: HF_HUB_OFFLINE forbids asking the hub; unset it")
    library.HfApi().whoami()


def check_folder(path: Path) -> Folder | Lora:
  """Open a folder that is to be pushed, and read all of its weights.

  Raises:
    UserError: it is neither a published or converted model nor a LoRA, or its weights are not what the folder says.
  """
  if is_remote(path):
    raise UserError(f"push: {path} is in a bucket; what is pushed must be on a disk")
  if is_trained(path):
    raise UserError(
        f"push: {path} is the workdir of a training run; give a --target too, the folder that is made of it and pushed")
  if (path / lora.CONFIG).is_file():
    opened = lora.open_lora(path)
    for name, pair in opened.updates.items():
      if not all(is_finite(stored.read()) for stored in pair):
        raise UserError(f"push: {path}: the matrices of {name} are not finite; nothing was sent")
    if broken := [name for name, stored in opened.full.items() if not is_finite(stored.read())]:
      raise UserError(f"push: {path}: {broken[0]} is not finite; nothing was sent")
    return opened
  folder = open_folder(path)
  check_complete(folder, PARTS)
  for name in folder.parts:
    part = folder.parts[name]()
    if any(part.misfits()):
      raise UserError(f"push: {part.folder} does not fit its config; nothing was sent")
    digest = Digest()
    for weight, stored in part.weights.items():
      array = stored.read()
      if not is_finite(array):
        raise UserError(f"push: {part.folder}: {weight} is not finite; nothing was sent")
      digest.add(weight, array)
    check_same(part, digest)
  return folder


def write_readme(folder: Path, model: Folder | Lora, about: card.About, *, rewrite: bool) -> None:
  """Write README.md into a folder, unless it has one that is not to be rewritten."""
  path = folder / card.NAME
  if path.exists() and not rewrite:
    tell(f"{path} is pushed as it is; --rewrite_card writes a new one")
    return
  write_atomically(path, card.render(model, about))


def copy_samples(workdir: Path, target: Path) -> None:
  """Copy the newest pictures of a training run into a folder that is made of it."""
  if not (workdir / SAMPLES).is_dir():
    return
  found = sorted(path for path in (workdir / SAMPLES).iterdir() if path.suffix in _PICTURES)
  for path in found[-_MAX_PICTURES:]:
    (target / SAMPLES).mkdir(exist_ok=True)
    shutil.copyfile(local_copy(path), target / SAMPLES / path.name)


def pictures(folder: Path) -> list[str]:
  """Return the paths of the samples within a folder."""
  return sorted(name for name in names_below(folder) if Path(name).parent == Path(SAMPLES) and name.endswith(_PICTURES))


def upload(path: Path, repo: str, *, private: bool | None = None, revision: str | None = None) -> str:
  """Upload a model folder, which was checked, and make the repository if there is none.

  Args:
    path: the folder.
    repo: ORG/NAME.
    private: whether a new repository is private; None leaves it to the hub.
    revision: branch, which is made if there is none; None for the main one.

  Returns:
    Address of what was uploaded.

  Raises:
    UserError: the user may not write there.
    RunFailed: the hub fails, or can't be reached.
  """
  names = names_below(path)
  model = (name for name in needed(names, PARTS) if "/" in name or not name.endswith(".json") or name in _OF_FOLDER)
  sent = sorted({*model, *pictures(path), *(name for name in (card.NAME, *_LICENSES) if name in names)})
  if left := len(names) - len(sent):
    tell(f"{left} files of {path} are no part of the model and stay here, such as {min({*names} - {*sent})}")
  library = hub_library()
  api = library.HfApi()
  with telling(f"--push={repo}", repo, sends=True):
    url = api.create_repo(repo, private=private, exist_ok=True)
    if revision is not None:
      api.create_branch(repo, branch=revision, exist_ok=True)
    size = sum((path / name).stat().st_size for name in sent)
    say(f"uploading {len(sent)} files, {size_in_words(size)}, to {url}")
    with _bars(), _without_paths(path, sent) as folder:
      done = api.upload_folder(
          repo_id=repo, folder_path=folder, revision=revision, commit_message="Upload a model of nova_jax")
  return f"{url}/tree/{done.oid}"


@contextlib.contextmanager
def _without_paths(path: Path, names: Collection[str]) -> Generator[Path]:
  """Yield a folder of links to the files of another one, in which a name stands in place of each path of a folder."""
  with tempfile.TemporaryDirectory(prefix="nova_jax-") as place:
    for name in names:
      (Path(place) / name).parent.mkdir(parents=True, exist_ok=True)
      field = _PLACES.get(os.path.basename(name))
      values = read_json(path / name) if field else {}
      value = values.get(field)
      if field and isinstance(value, str) and _public(value) != value:
        text = json.dumps(values | {field: _public(value)}, indent=2)
        (Path(place) / name).write_text(f"{text}\n", encoding="utf-8")
      else:
        (Path(place) / name).symlink_to((path / name).resolve())
    yield Path(place)


def _public(place: str) -> str:
  """Return what stands for the place of a model elsewhere: its id on the hub, or the last part of a path."""
  is_path = is_remote(place) or os.path.isabs(place) or place.startswith((".", "~"))
  return identity(place) or (os.path.basename(place.rstrip("/")) if is_path else place)


@contextlib.contextmanager
def _bars() -> Generator[None]:
  """Let the library show its bars on a terminal alone; a log would have thousands of them."""
  utils = hub_library().utils
  if sys.stderr.isatty() or utils.are_progress_bars_disabled():
    yield
    return
  utils.disable_progress_bars()
  try:
    yield
  finally:
    utils.enable_progress_bars()
