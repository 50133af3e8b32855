"""Latents of clips in safetensors files: the array `latents`, [B, T, h, w, C] or of one clip [T, h, w, C], in float32.

The metadata `clip`, which may be missing, is JSON: frames per second, number of frames, and the digest of the
autoencoder that made them, by which others are refused.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nova_jax.autoencoders import Autoencoder
from nova_jax.media.clock import is_rate
from nova_jax.storage import as_path, local_copy
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_regular, write_atomically

ENDING, ARRAY = ".safetensors", "latents"
_ABOUT = "clip"  # One entry of the metadata: the order of several is not the same each time.


class LatentClips(NamedTuple):
  """Latents of clips, and what their file says of them.

  Attributes:
    latents: latents, shifted and scaled as models expect them.
    fps: frames per second; None if it is not known.
    num_frames: frames that were encoded; None if it is not known.
    autoencoder: digest of the autoencoder; None if it is not known.
  """

  latents: Float32[np.ndarray, "B T h w C"]
  fps: float | None = None
  num_frames: int | None = None
  autoencoder: str | None = None


def is_latents(source: Any) -> bool:
  """Return whether a source is named like a file of latents."""
  return isinstance(source, (str, Path)) and str(source).lower().endswith(ENDING)


def write_latents(path: Path, clips: LatentClips) -> None:
  """Write latents into a file, whole or not at all."""
  about = {name: value for name, value in clips._asdict().items() if name != ARRAY and value is not None}
  content = save({ARRAY: np.ascontiguousarray(clips.latents)}, metadata={_ABOUT: json.dumps(about, sort_keys=True)})
  write_atomically(path, content)


def latents_shape(path: str | Path) -> tuple[int, ...]:
  """Return the shape [B, T, h, w, C] of the latents in a file, without reading them.

  Raises:
    UserError: it is no file of latents.
  """
  with _opened(path) as file:
    return _shape(path, file)


def read_latents(path: str | Path) -> LatentClips:
  """Read a file of latents.

  Raises:
    UserError: it is no such file, or holds values that are not finite.
  """
  with _opened(path) as file:
    shape, about = _shape(path, file), (file.metadata() or {}).get(_ABOUT, "{}")
    latents = file.get_tensor(ARRAY).reshape(shape)
  if not np.isfinite(latents).all():
    raise UserError(f"{path}: expected finite latents, got an infinity or NaN")
  try:
    known = json.loads(about)
    fps, frames, digest = (known.get(name) for name in LatentClips._fields[1:])
  except (ValueError, AttributeError, RecursionError):
    raise UserError(f"{path}: what it says of its clip is damaged: expected JSON, got {about[:80]!r}") from None
  if not (fps is None or is_rate(fps)) or not (frames is None or type(frames) is int and frames > 0) or not (
      digest is None or isinstance(digest, str)):
    raise UserError(f"{path}: what it says of its clip is damaged: {about[:200]!r}")
  return LatentClips(latents, fps, frames, digest)


def check_autoencoder(path: str | Path, clips: LatentClips, autoencoder: Autoencoder) -> None:
  """Refuse latents of another autoencoder."""
  if clips.latents.shape[-1] != autoencoder.latent_dim or clips.autoencoder not in (None, autoencoder.digest):
    raise UserError(
        f"{path}: these latents, with {clips.latents.shape[-1]} channels, were made by another autoencoder than this "
        f"one, whose have {autoencoder.latent_dim}; decode them with their own")


def _opened(path: str | Path) -> Any:
  try:
    return safe_open(local_copy(check_regular(as_path(path))), "numpy")
  except (OSError, SafetensorError) as error:
    raise UserError(f"{path} can't be read: {error}") from None


def _shape(path: str | Path, file: Any) -> tuple[int, ...]:
  if ARRAY not in file.keys():
    raise UserError(f"{path}: expected an array {ARRAY!r}, got {', '.join(sorted(file.keys())[:4]) or 'none'}")
  found = file.get_slice(ARRAY)
  shape, dtype = tuple(found.get_shape()), found.get_dtype()
  if len(shape) not in (4, 5) or not all(shape) or dtype != "F32":
    raise UserError(f"{path}: expected float32 latents [B, T, h, w, C] or [T, h, w, C], got {dtype} {shape}")
  if math.prod(shape) > limits.REQUEST_PIXELS:
    raise UserError(f"{path}: expected at most {limits.REQUEST_PIXELS:,} numbers (limits.REQUEST_PIXELS), got {shape}")
  return (1,) * (5 - len(shape)) + shape
