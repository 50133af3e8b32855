"""TFDS datasets as sources: prepared versions in ArrayRecord files, which are read without TensorFlow.

An example has `video` uint8 [T, height, width, C] or `image` uint8 [height, width, C], and what tables have: a caption
and, of a scene, its start and end. A video may have its `fps`.
Invariant: nothing that a dataset's files name is imported or run; TFDS would import the modules of its features.
"""

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from nova_jax.config import CacheConfig
from nova_jax.data.cache.items.item import Example, Item
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean
from nova_jax.utils.files import read_bytes

PIXELS = ("video", "image")
_Feature = tfds.features.FeatureConnector
_KNOWN = frozenset(
    f"{kind.__module__}.{kind.__name__}" for kind in vars(tfds.features).values()
    if isinstance(kind, type) and issubclass(kind, _Feature))
# The others are left as they are stored: they may be large, and sounds are decoded by another program.
_DECODED = (
    tfds.features.Image, tfds.features.Video, tfds.features.Text, tfds.features.Tensor, tfds.features.Scalar,
    tfds.features.ClassLabel)
# Keys by which features say which class they are, in files that hold features: the last is that of old versions.
_CLASS_KEYS = {
    "features.json": ("pythonClassName", "python_class_name", "type"),
    "dataset_info.json": ("pythonClassName", "python_class_name")}
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(limits.PICTURE_PIXELS))  # TFDS decodes pictures with it.


@functools.lru_cache(maxsize=4)
def examples(folder: Path, split: str) -> Sequence[Mapping[str, Any]]:
  """Open a split of a prepared dataset."""
  builder = _open(folder)
  skipped = {
      name: tfds.decode.SkipDecoding() for name, feature in builder.info.features.items()
      if name not in PIXELS and not isinstance(feature, _DECODED)}
  return builder.as_data_source(split, decoders=skipped or None)


def _open(folder: Path) -> tfds.core.DatasetBuilder:
  """Open a prepared dataset after seeing that its features are TFDS's own.

  Raises:
    UserError: they aren't, or its files can't be read.
  """
  for path in sorted(folder.iterdir()):
    if path.suffix in (".json", ".txt"):  # Which TFDS reads as a whole.
      content = read_bytes(path, limits.JSON_FILE_BYTES)
      if path.name in _CLASS_KEYS:
        _check_classes(path, content)
  try:
    return tfds.builder_from_directory(folder)
  except Exception as error:  # Of whatever kind: it parses several files.
    raise UserError(f"--source: {folder} is no prepared TFDS dataset: {error}") from None


def _check_classes(path: Path, content: bytes) -> None:
  try:
    unknown = sorted(set(_classes(json.loads(content), _CLASS_KEYS[path.name])) - _KNOWN)
  except (ValueError, RecursionError) as error:
    raise UserError(f"--source: {path} is not JSON: {error}") from None
  if unknown:
    raise UserError(
        f"--source: {path} names {unknown[0][:200]!r}, which is no feature of TFDS itself; such classes are code, and "
        "none is run: export the dataset with features of tfds.features alone")


def _classes(value: Any, keys: Sequence[str]) -> Iterator[str]:
  """Yield the names of all classes in a description of features, also in JSON that it holds as text."""
  if isinstance(value, dict):
    for key, child in value.items():
      if key in keys and isinstance(child, str):
        yield child
      else:
        yield from _classes(child, keys)
  elif isinstance(value, list):
    for child in value:
      yield from _classes(child, keys)
  elif isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
    try:
      held = json.loads(value)
    except ValueError:
      return
    yield from _classes(held, keys)


def list_examples(folder: Path, split: str, cfg: CacheConfig) -> Iterator[Item]:
  """Yield the examples of a split, of "train" if none is named.

  Raises:
    UserError: no such split or caption, another file format than ArrayRecord, or features that are code.
  """
  builder = _open(folder)
  split = split or "train"
  if split not in builder.info.splits:
    raise UserError(f"--source: {folder} has no split {split!r}{did_you_mean(split, builder.info.splits)}")
  if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
    raise UserError(
        f"--source: {folder} is stored as {builder.info.file_format.value}; convert it to array_record, which can be "
        "read in any order")
  if cfg.caption_field not in builder.info.features:
    raise UserError(f"caption_field: {cfg.caption_field!r}{did_you_mean(cfg.caption_field, builder.info.features)}")
  if not set(PIXELS) & set(builder.info.features):
    raise UserError(f"--source: {folder} has none of {', '.join(PIXELS)}; it has {', '.join(builder.info.features)}")
  count = builder.info.splits[split].num_examples
  yield from (Item(f"{split}/{i}", Example(folder, split, i), {}) for i in range(count))
