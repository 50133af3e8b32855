"""Digests of weights: whether two models are the same, whatever their folders are called and however they are stored.

Invariant: every bit of every array counts, and so do names, shapes and types.
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

_LENGTH = 32  # Hexadecimal digits that are kept.
_FILES = "nova.json", "model_index.json", "scheduler", "tokenizer", "transformer", "vae", "text_encoder"
_THREADS = 4  # Arrays that are fetched to the host at once, at most.


def digest_arrays(tree: Any) -> str:
  """Return a digest of all arrays of a pytree; gigabytes take seconds."""

  def digest(item: tuple[Any, jax.Array]) -> str:
    path, leaf = item
    # An array of an accelerator would keep its copy on the host, which adds up to as much again as all weights.
    at_hand = all(device.platform == "cpu" for device in leaf.devices())
    array = np.asarray(leaf if at_hand else jnp.copy(leaf))
    head = f"{jax.tree_util.keystr(path, simple=True, separator='/')} {array.dtype} {array.shape}\n"
    content = hashlib.sha256(head.encode())
    content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return content.hexdigest()

  with concurrent.futures.ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
    return digest_values(list(pool.map(digest, jax.tree_util.tree_leaves_with_path(tree))))


def digest_folder(folder: str | Path, step: int | None = None) -> str:
  """Return a digest of the files of a model folder that say what the model is, without loading it.

  Args:
    folder: its path, of which the digest doesn't depend.
    step: of the checkpoint of a training run.
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
  """Return a digest of what JSON can hold."""
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_LENGTH]
