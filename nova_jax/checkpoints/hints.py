"""Suggestions for paths that are not model folders, which end the error."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from nova_jax.checkpoints import model_card
from nova_jax.checkpoints.components import PARTS
from nova_jax.checkpoints.lora import CONFIG as LORA_CONFIG
from nova_jax.checkpoints.weight_files import CONFIG

_LOOKED_AT = 1000  # Largest number of entries of a folder to look at.
_NAMED = 3
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".zst", ".7z")


def is_model(path: Path) -> bool:
  """Return whether a folder looks like a model of any form."""
  return (path / model_card.NAME).is_file() or any((path / part / CONFIG).is_file() for part in PARTS)


def suggestion(path: Path) -> str:
  """Return a suggestion that ends an error; empty if there is none."""
  if not path.exists():
    if str(path).startswith("~"):
      return f"; the shell leaves ~ as it is behind =: write --flag {path}, or {path.expanduser()}"
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(path)) and path.parent.is_dir():
      return f"; since {path.parent} is a folder here, this is no id of a model on the Hugging Face hub"
    return ""
  if not path.is_dir():
    above = _above(path)
    if above:
      return f"; the model is the whole folder: give {above}"
    return "; unpack it and give the folder" if path.suffix in _ARCHIVES else ""
  snapshots = list(_models_in(path / "snapshots"))
  if snapshots:
    return f"; it is a folder of the Hugging Face cache: give its snapshot, {_listed(_newest(path, snapshots))}"
  if (path / "snapshots").is_dir():
    return "; it is a folder of the Hugging Face cache, but none of its snapshots/ holds a model: download it again"
  if (path / "checkpoints").is_dir():
    return f"; it has checkpoints/ but no {model_card.NAME}, which training writes beside them: copy that file too"
  if (path / LORA_CONFIG).is_file():
    return "; it is a LoRA: give the model that it was trained for, and this folder as its LoRA"
  above = _above(path)
  if above:
    step = f" (and --step={path.name})" if path.name.isdecimal() and path.parent.name == "checkpoints" else ""
    return f"; it is a part of the model {above}: give that folder{step}"
  below = list(_models_in(path))
  return f"; it holds {'the model' if len(below) == 1 else 'models'}: give {_listed(below)}" if below else ""


def _above(path: Path) -> Path | None:
  """Return the nearest of three parent folders that looks like a model; None if none does."""
  if path.name in ("", ".", ".."):
    path = path.absolute().resolve()
  return next((folder for folder in path.parents[:3] if is_model(folder)), None)


def _newest(path: Path, snapshots: list[Path]) -> list[Path]:
  """Return the snapshot that the cache's main reference names, or all snapshots."""
  main = path / "refs" / "main"
  try:
    name = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
  except (OSError, ValueError):
    name = ""
  return [snapshot for snapshot in snapshots if snapshot.name == name] or snapshots


def _models_in(folder: Path) -> Iterator[Path]:
  try:
    entries = sorted(itertools.islice(folder.iterdir(), _LOOKED_AT))
  except OSError:
    return
  yield from (path for path in entries if path.is_dir() and is_model(path))


def _listed(folders: list[Path]) -> str:
  more = len(folders) - _NAMED
  return " or ".join(map(str, folders[:_NAMED])) + (f" or one of {more} others" if more > 0 else "")
