"""Digests of weights, which show whether two models are equal, regardless of their folders and forms of storage.

Invariant: a digest depends on every bit of every array, and on names, shapes and dtypes.
"""

import concurrent.futures
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nova_jax.storage import as_path

_LENGTH = 32  # Number of hexadecimal digits that are kept.
_FILES = "nova.json", "model_index.json", "scheduler", "tokenizer", "transformer", "vae", "text_encoder"
_THREADS = 4  # Largest number of arrays that are fetched to the host at once.


def digest_arrays(tree: Any) -> str:
  """Return a digest of all arrays of a pytree; a gigabyte takes seconds."""

  def digest(item: tuple[Any, jax.Array]) -> str:
    path, leaf = item
    # The array would keep its copy on the host, and all copies together would be as large as the weights.
    at_hand = all(device.platform == "cpu" for device in leaf.devices())
    array = np.asarray(leaf if at_hand else jnp.copy(leaf))
    head = f"{jax.tree_util.keystr(path, simple=True, separator='/')} {array.dtype} {array.shape}\n"
    content = hashlib.sha256(head.encode())
    content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return content.hexdigest()

  with concurrent.futures.ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
    return digest_values(list(pool.map(digest, jax.tree_util.tree_leaves_with_path(tree))))


def digest_folder(folder: str | Path, step: int | None = None) -> str:
  """Return a digest of the files that identify the model in a folder, without loading it.

  Args:
    folder: path of the folder, on which the digest does not depend.
    step: step of the checkpoint of a training run.
  """
  folder, files = as_path(folder), []
  for name in _FILES if step is None else ("nova.json", f"checkpoints/{step}"):
    files += sorted(path for path in [folder / name, *(folder / name).rglob("*")] if path.is_file())
  digests = {}
  for path in files:
    with path.open("rb") as file:
      digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
  return digest_values(digests)


def digest_values(values: Any) -> str:
  """Return a digest of a JSON value."""
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_LENGTH]
