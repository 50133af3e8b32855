"""Checks that numbers are finite, since others in weights, latents or pixels end as black pictures.

Invariant: checking an array on the host reads it once and does not copy it.
"""


import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

LARGEST_LATENT = 1e6  # Larger values come only from an overflow, since latents have a standard deviation of about 1.
_CHUNK = 1 << 18  # Numbers checked at once, which fit into the processor's cache.
# The bits of the exponent, which are all set only in infinities and NaN.
_EXPONENTS = {
    np.dtype(np.float16): np.uint16(0x7C00), np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
    np.dtype(np.float32): np.uint32(0x7F800000), np.dtype(np.float64): np.uint64(0x7FF0000000000000)}


class NotFinite(FloatingPointError):
  """Decoded pixels are not finite.

  Attributes:
    frame: index of the first such frame.
    of: description of the frames among which it is counted.
  """

  def __init__(self, frame: int, of: str = "the frames that were decoded together"):
    super().__init__(f"the autoencoder made pixels that are not finite, from frame {frame + 1} of {of} on")
    self.frame = frame


def is_finite(array: np.ndarray | jax.Array) -> bool:
  """Return whether an array has neither infinities nor NaN."""
  if isinstance(array, jax.Array):
    return bool(all_finite(array))
  exponent = _EXPONENTS.get(array.dtype)
  if exponent is None:
    return array.dtype.kind in "biu" or bool(np.isfinite(array).all())
  bits = np.ravel(array).view(exponent.dtype)
  return all(
      (bits[start : start + _CHUNK] & exponent).max() != exponent for start in range(0, bits.size, _CHUNK))


@jax.jit
def all_finite(x: jax.Array) -> jax.Array:
  """Return whether an array is finite as a value on the device, without waiting for it."""
  return jnp.isfinite(x).all()


@jax.jit
def are_latents(x: jax.Array) -> jax.Array:
  """Return, as a value on the device, whether numbers may be latents: finite and at most `LARGEST_LATENT`."""
  return (jnp.abs(x) < LARGEST_LATENT).all()


def check_frames(pixels: np.ndarray | jax.Array) -> None:
  """Check that pixels [B, frames, ...] are finite.

  Raises:
    NotFinite: they are not; the error names the frame.
  """
  if not is_finite(pixels):
    frames = np.asarray(pixels)
    frames = frames.reshape(*frames.shape[:2], -1) if frames.ndim > 2 else frames.reshape(1, 1, -1)
    raise NotFinite(int(np.argmin(np.isfinite(frames).all(axis=(0, 2)))))
