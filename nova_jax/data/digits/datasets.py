"""Moving digits as datasets on disk: TFDS builders that write clips as ArrayRecord files.

`MovingDigits` has the clips of `one_digit.py`, `TwoDigits` those of `two_digits.py`.

Neither TensorFlow nor a network is needed, and nothing but passing temporary files is written outside the folder given.
Invariant: the same config gives the same bytes, on any machine.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from nova_jax.config import DataConfig
from nova_jax.data.digits import captions, one_digit, two_digits
from nova_jax.utils.errors import UserError
from nova_jax.utils.ranges import check_ranges
from nova_jax.utils.terminal import say


@dataclasses.dataclass(kw_only=True)
class MovingDigitsConfig(tfds.core.BuilderConfig):
  """Sizes of a stored dataset, which name its folder."""

  name: str = dataclasses.field(init=False)
  canvas: int = 16
  num_frames: int = 4
  jitter: int = 0
  paraphrase_fraction: float = 0.0
  turning_fraction: float = 0.0  # Of the training split alone: the others are scored and shown by their first captions.
  num_train: int = 4000
  num_test: int = 10 * one_digit.HELD_OUT_PER_CLASS  # Each held-out digit once.
  seed: int = 0

  def __post_init__(self):
    # Names of folders keep the first words for these fractions, so that datasets on disk are found.
    sizes = {"canvas": self.canvas, "num_frames": self.num_frames, "jitter": self.jitter,
             "free_captions": self.paraphrase_fraction, "num_train": self.num_train, "num_test": self.num_test,
             "seed": self.seed}
    sizes |= {"turning": self.turning_fraction} if self.turning_fraction else {}
    self.name = "-".join(f"{name}_{size}" for name, size in sizes.items())


class MovingDigits(tfds.core.GeneratorBasedBuilder):
  """Handwritten digits moving over a canvas, with captions."""

  VERSION = tfds.core.Version("1.2.0")
  code_path = None  # Else TFDS looks for checksums beside this file, with a package that it does not install.

  def _info(self) -> tfds.core.DatasetInfo:
    cfg = self.builder_config
    return tfds.core.DatasetInfo(
        builder=self,
        description="Handwritten digits moving over a canvas, with captions.",
        homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        features=tfds.features.FeaturesDict({
            "video": tfds.features.Tensor(
                shape=(cfg.num_frames, cfg.canvas, cfg.canvas, 1), dtype=np.uint8,
                encoding=tfds.features.Encoding.BYTES),
            "caption": tfds.features.Text(),
            **_mover(),
            "wall": tfds.features.Scalar(np.int64),
            "turn": tfds.features.Scalar(np.int64),
            "later_caption": tfds.features.Text(),
            "later_wall": tfds.features.Scalar(np.int64),
            **self._more_features(),
        }),
        disable_shuffling=True)  # Record i of a split is its clip i; the loader shuffles.

  def _split_generators(self, dl_manager):
    del dl_manager  # The digits come with scikit-learn.
    return {
        "train": self._generate_examples("train", self.builder_config.num_train),
        "test": self._generate_examples("test", self.builder_config.num_test),
    }

  def _generate_examples(self, split: str, num_clips: int):
    for number in range(num_clips):
      clip = self._make_clip(split, number)
      yield number, {f.name: getattr(clip, f.name) for f in dataclasses.fields(clip)}

  def _more_features(self) -> dict[str, Any]:
    """Return the features of records that have further fields."""
    return {}

  def _make_clip(self, split: str, number: int) -> one_digit.Clip:
    """Draw a record."""
    cfg = self.builder_config
    return one_digit.make_clip(
        split, number, canvas=cfg.canvas, num_frames=cfg.num_frames, jitter=cfg.jitter,
        paraphrase_fraction=cfg.paraphrase_fraction,
        turning_fraction=cfg.turning_fraction if split == "train" else 0.0, seed=cfg.seed)


class TwoDigits(MovingDigits):
  """Two handwritten digits that cross and pass one in front of the other, with captions."""

  VERSION = tfds.core.Version("1.0.0")

  def _more_features(self) -> dict[str, Any]:
    return _mover("back_")

  def _make_clip(self, split: str, number: int) -> one_digit.Clip:
    cfg = self.builder_config
    return two_digits.make_clip(
        split, number, canvas=cfg.canvas, num_frames=cfg.num_frames, paraphrase_fraction=cfg.paraphrase_fraction,
        seed=cfg.seed)


BUILDERS = {"moving_digits": MovingDigits, "two_digits": TwoDigits}  # By name in `config.DATASETS`.


def _mover(prefix: str = "") -> dict[str, Any]:
  """Return the features of a digit that moves."""
  return {
      f"{prefix}digit": tfds.features.ClassLabel(num_classes=10),
      f"{prefix}direction": tfds.features.ClassLabel(names=captions.DIRECTIONS),
      f"{prefix}source": tfds.features.Scalar(np.int64)}


def check_fields(cfg: DataConfig) -> None:
  """Refuse fields of one moving digit where two cross, whose way is always the same."""
  for name in ("jitter", "turning_fraction"):
    if cfg.name == "two_digits" and getattr(cfg, name):
      raise UserError(f"data.{name}: two digits start in the middle of their lanes and never turn; expected 0, got "
                      f"{getattr(cfg, name)}")


def prepare(data_dir: str | os.PathLike[str], cfg: DataConfig) -> Mapping[str, Sequence[Mapping[str, Any]]]:
  """Write the dataset under `data_dir` unless it is there, and open it.

  It is written to a temporary folder and renamed when complete, so that a process killed half-way leaves nothing
  that a later one would read; of several processes that write at once, one wins.

  Returns:
    A random-access source per split, "train" and "test": records as dicts of the features above.

  Raises:
    UserError: sizes that leave nothing to show, or a field that the dataset does without.
  """
  check_ranges(cfg, "data")
  check_fields(cfg)
  builder_config = MovingDigitsConfig(
      canvas=cfg.canvas, num_frames=cfg.num_frames, jitter=cfg.jitter,
      paraphrase_fraction=cfg.paraphrase_fraction, turning_fraction=cfg.turning_fraction, num_train=cfg.num_records)

  def open_builder():
    return BUILDERS[cfg.name](data_dir=data_dir, config=builder_config, file_format="array_record")

  with _quiet():
    builder = open_builder()
    is_there = builder.is_prepared()
  if not is_there:
    say(f"drawing {cfg.num_records} clips of digits into {data_dir}")
  with _quiet():
    try:
      builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except OSError:  # Another process was faster, unless its result is not there.
      builder = open_builder()
      if not builder.is_prepared():
        raise
  return builder.as_data_source()


@contextlib.contextmanager
def _quiet():
  """Keep TFDS's progress bars and messages off the terminal, errors excepted."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)
