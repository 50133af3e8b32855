"""Features of a folder of pictures or videos, for distances between what is real and what is generated.

A feature function takes clips uint8 [B, T, height, width, 3] of one size and returns features [n, `dim`], of each frame
(FID: `inception.Inception`) or of each clip (FVD: `i3d.I3D`). Your own is named as Python finds it, "module:function";
the function takes the path of its weights, and returns one with the attribute `dim`:

  class Features(Protocol):
    dim: int
    def __call__(self, clips): ...

Invariant: files are taken in the order of their names, and one clip at a time, so that batches mean nothing.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from nova_jax.evals.frechet import FeatureStatistics
from nova_jax.evals.i3d import I3D
from nova_jax.evals.inception import Inception
from nova_jax.progress import Progress

PICTURES, VIDEOS = (".png", ".jpg", ".jpeg"), (".mp4", ".webm", ".avi", ".gif")
NETWORKS = {"inception": Inception, "i3d": I3D}


class Features(Protocol):
  """A feature function."""

  dim: int

  def __call__(self, clips: UInt8[np.ndarray, "B T height width 3"]) -> Float[np.ndarray, "n D"]:
    """Return features of frames, or of clips."""


def open_features(name: str, weights: str | Path) -> Features:
  """Open a feature function by its name, with the weights that the user brings.

  Raises:
    ValueError: there is no such function, or it doesn't take these weights.
  """
  if name in NETWORKS:
    return NETWORKS[name].load(weights)
  module, colon, function = name.partition(":")
  if not colon:
    raise ValueError(f"--features: expected {', '.join(NETWORKS)} or MODULE:FUNCTION, got {name!r}")
  try:
    make = getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError) as error:
    raise ValueError(f"--features: {name}: {error}") from None
  made = make(weights)
  if not isinstance(getattr(made, "dim", None), int) or not callable(made):
    raise ValueError(f"--features: {name} should return a function with the attribute dim, a number")
  return made


def features_of(folder: Path, function: Features) -> tuple[Float[np.ndarray, "n D"], FeatureStatistics]:
  """Return the features of all pictures and videos in a folder, and their mean and covariance."""
  paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES + VIDEOS)
  if not paths:
    raise ValueError(f"{folder} has no pictures or videos ({', '.join(PICTURES + VIDEOS)})")
  found, statistics = [], FeatureStatistics(function.dim)
  with Progress("file", len(paths)) as progress:
    for done, path in enumerate(paths, 1):
      found.append(np.asarray(function(read_clip(path)[None]), np.float64))
      statistics.add(found[-1])
      progress.show(done, what=folder.name)
  return np.concatenate(found), statistics


def read_clip(path: Path) -> UInt8[np.ndarray, "T height width 3"]:
  """Read a picture as a clip of one frame, or a video whole.

  Raises:
    ValueError: it can't be read.
  """
  try:
    if path.suffix.lower() in PICTURES:
      with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))[None]
    frames = list(_frames(path))
  except (OSError, SyntaxError, av.FFmpegError) as error:
    raise ValueError(f"{path} can't be read: {error}") from None
  if not frames:
    raise ValueError(f"{path} has no frames")
  return np.stack(frames)


def _frames(path: Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
  with av.open(str(path)) as container:
    for frame in container.decode(video=0):
      yield frame.to_ndarray(format="rgb24")
