"""Which files of a model on the hub are needed: not all forms of the same weights, and no pictures."""

import re
from collections.abc import Collection, Iterable

from nova_jax.checkpoints.arrays import DIGESTS, STATE
from nova_jax.checkpoints.components import PARTS, TRANSFORMER
from nova_jax.checkpoints.weight_files import CONFIG, PICKLES, SAFETENSORS

_WHOLE = ("scheduler", "tokenizer")  # Folders of small files.


def needed(names: Collection[str], parts: Collection[str]) -> list[str]:
  """Return the files to download.

  Args:
    names: paths of all files of the model.
    parts: names of the parts whose weights are needed. Of the others, the small files tell what they are.
  """
  has_parts = any(f"{part}/{CONFIG}" in names for part in PARTS)
  in_folder: dict[str, list[str]] = {}
  for name in names:
    folder, _, file = name.rpartition("/")
    in_folder.setdefault(folder, []).append(file)
  found = []
  for folder, files in in_folder.items():
    top, _, below = folder.partition("/")
    if top in _WHOLE:
      chosen: Iterable[str] = files
    elif not folder:
      small = [file for file in files if file.endswith(".json")]
      chosen = small if has_parts else {*small, *_weights(files)}
    elif top in PARTS and not below:
      chosen = {CONFIG, *(_weights(files) if top in parts else ())}
    elif top in parts and below.partition("/")[0] in (STATE, DIGESTS) or top == "checkpoints" and TRANSFORMER in parts:
      chosen = files
    else:
      continue
    found += [f"{folder}/{file}" if folder else file for file in chosen if file in files]
  return sorted(found)


def _weights(files: Collection[str]) -> list[str]:
  """Return the weights among the files of a folder: the first form that `weight_files` would read."""
  for name in SAFETENSORS + PICKLES:
    index = f"{name}.index.json"
    base, _, ending = name.rpartition(".")
    if index in files:
      return [index, *(file for file in files if re.fullmatch(rf"{base}-\d+-of-\d+\.{ending}", file))]
    if name in files:
      return [name]
  return next(filter(None, ([file for file in files if file.endswith(end)] for end in (".safetensors", ".bin"))), [])
