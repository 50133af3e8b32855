"""Features of a folder of pictures or videos, for distances between real and generated ones.

A feature function maps clips uint8 [B, T, height, width, 3] of one size to features [n, `dim`], one per frame (FID:
`inception.Inception`) or one per clip (FVD: `i3d.I3D`). You can name your own as "module:function": the function takes
the path of the weights and returns a feature function with the attribute `dim`:

  class MyFeatures:
    dim: int
    def __call__(self, clips): ...

Invariant: files are processed in the order of their names, one clip at a time, so results don't depend on batches.
"""

import contextlib
import importlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from nova_jax.evals.features.frechet import FeatureStatistics
from nova_jax.evals.features.i3d import I3D
from nova_jax.evals.features.inception import Inception
from nova_jax.media.footage import open_footage
from nova_jax.storage import fetched, is_remote
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.progress import Progress

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".webm", ".avi", ".gif", ".mov", ".mkv", ".m4v", ".mpg", ".mpeg")
NETWORKS = {"inception": Inception, "i3d": I3D}


class FeatureFunction(Protocol):
  """A function from clips to features."""

  dim: int

  def __call__(self, clips: UInt8[np.ndarray, "B T height width 3"]) -> Float[np.ndarray, "n D"]:
    """Return features of frames or of clips."""


class FolderFeatures(NamedTuple):
  """Features of all files of a folder."""

  features: Float[np.ndarray, "n D"]
  statistics: FeatureStatistics
  clip_frames: int | None  # Number of frames of each clip; None for features of frames.


def open_features(name: str, weights: str | Path) -> FeatureFunction:
  """Create a feature function by name, with weights provided by the user.

  Raises:
    UserError: there is no such function, or the weights don't fit it.
  """
  if name in NETWORKS:
    return NETWORKS[name].load(weights)
  module, colon, function = name.partition(":")
  if not colon:
    raise UserError(f"--features: expected {', '.join(NETWORKS)} or MODULE:FUNCTION, got {name!r}")
  try:
    make = getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError) as error:
    raise UserError(f"--features: {name}: {error}") from None
  made = make(weights)
  if not isinstance(getattr(made, "dim", None), int) or not callable(made):
    raise UserError(f"--features: {name} should return a function with the attribute dim, a number")
  return made


def find(folder: Path, suffixes: tuple[str, ...] = PICTURES + VIDEOS) -> list[Path]:
  """Return the files in a folder and its subfolders that have one of the suffixes, in order.

  Raises:
    UserError: there are none, or there is no such folder.
  """
  # Files that begin with "._" are metadata of macOS.
  paths = sorted(
      path for path in folder.rglob("*") if path.suffix.lower() in suffixes and not path.name.startswith("._"))
  if not paths:
    what = "videos" if suffixes == VIDEOS else "pictures or videos"
    if not folder.is_dir():
      is_file = folder.exists()
      raise UserError(f"{folder} is a file; expected a folder of {what}" if is_file else f"there is no folder {folder}")
    raise UserError(f"{folder} has no {what} ({', '.join(suffixes)})")
  return paths


def passed_over(folder: Path, suffixes: tuple[str, ...] = PICTURES + VIDEOS) -> str:
  """Return a line on the files in a folder and its subfolders that `find` skips; "" if there are none."""
  others = Counter(
      path.suffix.lower() or "without an ending" for path in folder.rglob("*")
      if (path.suffix.lower() not in suffixes or path.name.startswith("._")) and path.is_file())
  kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
  return f"{folder}: {others.total()} files are not read ({kinds})" if others else ""


def compute_features(paths: Sequence[Path], function: FeatureFunction, what: str) -> FolderFeatures:
  """Return the features of pictures and videos.

  Args:
    paths: paths of the files.
    function: feature function.
    what: label of the progress bar.

  Raises:
    UserError: a file can't be read, the function refuses it, or clips with one feature each differ in length.
  """
  found, statistics, clip_frames = [], FeatureStatistics(function.dim), None
  with Progress("file", len(paths)) as progress:
    for done, path in enumerate(paths, 1):
      clip = read_clip(path)
      try:
        found.append(np.asarray(function(clip[None]), np.float64))
        statistics.add(found[-1])
      except ValueError as error:
        raise UserError(f"{path}: {error}") from None
      if len(found[-1]) == 1 < len(clip):
        clip_frames = clip_frames or len(clip)
        if len(clip) != clip_frames:
          raise UserError(f"{path} has {len(clip)} frames, clips before it {clip_frames}; expected as many in all")
      progress.show(done, what=what)
  return FolderFeatures(np.concatenate(found), statistics, clip_frames)


def read_clip(path: Path) -> UInt8[np.ndarray, "T height width 3"]:
  """Read a whole video, or a picture as a clip of one frame.

  Raises:
    UserError: the file can't be read, or has more than `limits.REQUEST_PIXELS` pixels.
  """
  frames, pixels = [], 0
  with contextlib.ExitStack() as stack:
    # A copy of each file would fill the disk.
    content = stack.enter_context(fetched(path)) if is_remote(path) else path
    footage = stack.enter_context(open_footage(content, name=str(path)))
    for frame in footage.frames:
      frames.append(frame.upright())
      pixels += frames[-1][..., 0].size
      if pixels > limits.REQUEST_PIXELS:
        raise UserError(
            f"{path}: its frames are more pixels than REQUEST_PIXELS, {limits.REQUEST_PIXELS:,}; score shorter clips")
  if not frames:
    raise UserError(f"{path} has no frames")
  if len({frame.shape for frame in frames}) > 1:
    raise UserError(f"{path}: expected frames of one size, got several")
  return np.stack(frames)
