"""What a run learns from and starts from, by content: caches and model folders, wherever they lie.

`identity.json` in the workdir keeps digests by the name of the config's field, with sizes and times of a model folder's
files: while these stay as they are, its weights aren't read again.
Invariant: the same content has the same digest under any path, and no other content has it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nova_jax import autoencoders, pretrained, text
from nova_jax.checkpoints.components import TEXT_ENCODER, VAE
from nova_jax.checkpoints.hub import identity, parse_id, part_folder
from nova_jax.checkpoints.model_folder import open_folder, open_single_part
from nova_jax.checkpoints.part_digest import weights_digest
from nova_jax.config import Experiment, SourceConfig
from nova_jax.data.cache.identity import manifest_digest
from nova_jax.data.digits.datasets import BUILDERS
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError

NAME = "identity.json"
Identities = dict[str, dict[str, str]]  # By field: "digest", and "files" of a model folder.


def identify(experiment: Experiment, known: Identities) -> Identities:
  """Return the identities of what an experiment names by path; those that are gone are left out.

  Args:
    experiment: of the run.
    known: identities of an earlier start.

  Raises:
    UserError: a folder is there, but isn't what it should be.
  """
  found: Identities = {}
  for name, source in _sources(experiment):
    found[name] = {"digest": manifest_digest(source.path)}
  if builder := BUILDERS.get(experiment.data.name):
    found["data"] = {"digest": f"{experiment.data.name} {builder.VERSION}"}
  for name, path, digest in _folders(experiment):
    if not as_path(path).is_dir():
      continue
    files = _files(as_path(path))
    before = known.get(name, {})
    found[name] = {"digest": before["digest"] if before.get("files") == files else digest(), "files": files}
  return found


def same_content(
    name: str, known: Identities, now: Identities, then: Any, path: Any, continues: bool
) -> bool:
  """Return whether a field that holds a path means the same as at an earlier start.

  Args:
    name: of the field.
    known: identities then.
    now: identities now.
    then: the path then.
    path: the path now.
    continues: whether the run has a checkpoint, so that its first weights (`init`) are not read any more.
  """
  same_path = os.path.realpath(str(then)) == os.path.realpath(str(path)) or _same_repository(str(then), str(path))
  if continues and name == "init" and same_path or name not in known or name not in now:
    return same_path
  return known[name]["digest"] == now[name]["digest"]


def _same_repository(then: str, path: str) -> bool:
  """Return whether a path in the hub's cache is of the model whose id now stands in its place."""
  named = parse_id(path)
  return named is not None and (identity(then) or "").startswith(f"{named.repo}@")


def _sources(experiment: Experiment) -> Iterator[tuple[str, SourceConfig]]:
  if experiment.data.name != "caches":
    return
  for i, source in enumerate(experiment.data.sources):
    if not all(stage.sources for stage in experiment.train.stages):
      yield f"data.sources.{i}.path", source
  for i, source in enumerate(experiment.eval.sources):
    yield f"eval.sources.{i}.path", source
  for number, stage in enumerate(experiment.train.stages):
    for i, source in enumerate(stage.sources):
      yield f"train.stages.{number}.sources.{i}.path", source


def _folders(experiment: Experiment) -> Iterator[tuple[str, str, Callable[[], str]]]:
  for name, kind, built_in in (
      ("autoencoder", VAE, autoencoders.BUILT_IN), ("text_encoder", TEXT_ENCODER, text.BUILT_IN)):
    path = getattr(experiment, name)
    if path not in built_in:
      yield name, path, lambda path=path, kind=kind, built_in=built_in: weights_digest(
          open_single_part(part_folder(path, kind), kind, built_in))
  if experiment.init:
    yield "init", str(pretrained.find(experiment.init)), lambda: weights_digest(
        open_folder(as_path(experiment.init)).transformer())


def _files(folder: Path) -> str:
  """Return a digest of the names, sizes and times of a folder's files."""
  lines = []
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    found = path.stat()
    lines.append(f"{path.relative_to(folder)} {found.st_size} {found.st_mtime_ns}")
  return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def check_identities(values: Mapping[str, Any], path: Path) -> Identities:
  """Return identities as they were read from a file."""
  for name, fields in values.items():
    if not isinstance(fields, Mapping) or not isinstance(fields.get("digest"), str):
      raise UserError(f"{path}: expected a digest of {name}, got {fields!r}; bring back a copy of the file")
  return dict(values)
