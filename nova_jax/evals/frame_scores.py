"""Scores of single frames beside real ones: PSNR and SSIM.

  PSNR   10 log10(255² / mean squared difference); 100 for equal frames, and at most
  SSIM   "Image Quality Assessment: From Error Visibility to Structural Similarity" (Wang et al., 2004): windows of
         11 x 11 pixels with Gaussian weights of deviation 1.5, which lie within the frame; K₁ = 0.01, K₂ = 0.03,
         population covariance; the mean over windows and colours

Invariant: all computation is in float64.
"""

import numpy as np
from jaxtyping import Float, UInt8

from nova_jax.utils.errors import UserError

WINDOW = 11
_DEVIATION, _RANGE, _LARGEST = 1.5, 255, 100.0
_OFFSETS = np.arange(WINDOW) - WINDOW // 2
_WEIGHTS = np.exp(-0.5 * (_OFFSETS / _DEVIATION) ** 2)
_WEIGHTS /= _WEIGHTS.sum()
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2

Clip = UInt8[np.ndarray, "T height width C"]


def psnr(real: Clip, made: Clip) -> Float[np.ndarray, "T"]:
  """Return the peak signal-to-noise ratio of each frame, in decibels.

  Raises:
    UserError: the clips differ in shape.
  """
  real, made = _checked(real, made)
  error = ((real - made) ** 2).mean((1, 2, 3))
  with np.errstate(divide="ignore"):
    return np.minimum(10 * np.log10(_RANGE**2 / error), _LARGEST)


def ssim(real: Clip, made: Clip) -> Float[np.ndarray, "T"]:
  """Return the structural similarity of each frame.

  Raises:
    UserError: the clips differ in shape, or are smaller than a window.
  """
  real, made = _checked(real, made)
  if min(real.shape[1:3]) < WINDOW:
    raise UserError(f"SSIM: expected frames of at least {WINDOW} x {WINDOW} pixels, got {_size(real)}")
  mean1, mean2 = _smooth(real), _smooth(made)
  variance1, variance2 = _smooth(real**2) - mean1**2, _smooth(made**2) - mean2**2
  covariance = _smooth(real * made) - mean1 * mean2
  similarity = (2 * mean1 * mean2 + _C1) * (2 * covariance + _C2) / (
      (mean1**2 + mean2**2 + _C1) * (variance1 + variance2 + _C2))
  return similarity.mean((1, 2, 3))


def _smooth(x: Float[np.ndarray, "T height width C"]) -> Float[np.ndarray, "T h w C"]:
  """Return the weighted means of all windows."""
  height, width = (side - WINDOW + 1 for side in x.shape[1:3])
  x = sum(weight * x[:, i : i + height] for i, weight in enumerate(_WEIGHTS))
  return sum(weight * x[:, :, i : i + width] for i, weight in enumerate(_WEIGHTS))


def _checked(real: Clip, made: Clip) -> tuple[Float[np.ndarray, "T h w C"], Float[np.ndarray, "T h w C"]]:
  if real.shape != made.shape or real.ndim != 4:
    raise UserError(f"frames to compare: expected as many of one size, got {_shape(real)} and {_shape(made)}")
  return real.astype(np.float64), made.astype(np.float64)


def _shape(clip: Clip) -> str:
  return f"{len(clip)} of {_size(clip)}"


def _size(clip: np.ndarray) -> str:
  return f"{clip.shape[2]} x {clip.shape[1]}"
