"""TFDS datasets as sources: prepared versions in ArrayRecord files, which are read without TensorFlow.

An example has `video` uint8 [T, height, width, C] or `image` uint8 [height, width, C], and what tables have: a caption
and, of a scene, its start and end. A video may have its `fps`.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from nova_jax.config import CacheConfig
from nova_jax.data.cache.items import Example, Item
from nova_jax.fields import did_you_mean

PIXELS = ("video", "image")


@functools.lru_cache(maxsize=4)
def examples(folder: Path, split: str) -> Sequence[Mapping[str, Any]]:
  """Open a split of a prepared dataset."""
  return tfds.builder_from_directory(folder).as_data_source(split)


def list_examples(folder: Path, split: str, cfg: CacheConfig) -> list[Item]:
  """List the examples of a split, of "train" if none is named.

  Raises:
    ValueError: no such split or caption, or another file format than ArrayRecord.
  """
  try:
    builder = tfds.builder_from_directory(folder)
  except Exception as error:  # Of whatever kind: it parses several files.
    raise ValueError(f"--source: {folder} is no prepared TFDS dataset: {error}") from None
  split = split or "train"
  if split not in builder.info.splits:
    raise ValueError(f"--source: {folder} has no split {split!r}{did_you_mean(split, builder.info.splits)}")
  if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
    raise ValueError(
        f"--source: {folder} is stored as {builder.info.file_format.value}; convert it to array_record, which can be "
        "read in any order")
  if cfg.caption_field not in builder.info.features:
    raise ValueError(f"caption_field: {cfg.caption_field!r}{did_you_mean(cfg.caption_field, builder.info.features)}")
  if not set(PIXELS) & set(builder.info.features):
    raise ValueError(f"--source: {folder} has none of {', '.join(PIXELS)}; it has {', '.join(builder.info.features)}")
  count = builder.info.splits[split].num_examples
  return [Item(f"{split}/{i}", Example(folder, split, i), {}) for i in range(count)]
