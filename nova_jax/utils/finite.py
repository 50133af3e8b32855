"""Whether numbers are finite: a weight, a latent or a pixel that is not would end as a black picture.

Invariant: a check of an array on the host reads it once and makes no copy of it.
"""


import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

LARGEST_LATENT = 1e6  # Latents have a standard deviation of about 1.
_CHUNK = 1 << 18  # Numbers looked at together: they stay in the processor's cache.
# The bits of an exponent, all of which are set in infinities and NaN and in nothing else.
_EXPONENTS = {
    np.dtype(np.float16): np.uint16(0x7C00), np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
    np.dtype(np.float32): np.uint32(0x7F800000), np.dtype(np.float64): np.uint64(0x7FF0000000000000)}


class NotFinite(FloatingPointError):
  """Pixels that are not finite.

  Attributes:
    frame: the first such frame, from 0.
    of: what the frame is counted in.
  """

  def __init__(self, frame: int, of: str = "the frames that were decoded together"):
    super().__init__(f"the autoencoder made pixels that are not finite, from frame {frame + 1} of {of} on")
    self.frame = frame


def is_finite(array: np.ndarray | jax.Array) -> bool:
  """Return whether an array holds neither an infinity nor NaN."""
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
  """Return the same as a value on the device, for whoever doesn't want to wait for it."""
  return jnp.isfinite(x).all()


@jax.jit
def are_latents(x: jax.Array) -> jax.Array:
  """Return, likewise, whether numbers may be latents: finite, and not as large as only an overflow makes them."""
  return (jnp.abs(x) < LARGEST_LATENT).all()


def check_frames(pixels: np.ndarray | jax.Array) -> None:
  """Refuse pixels [B, frames, ...] that are not finite.

  Raises:
    NotFinite: it names the frame.
  """
  if not is_finite(pixels):
    frames = np.asarray(pixels)
    frames = frames.reshape(*frames.shape[:2], -1) if frames.ndim > 2 else frames.reshape(1, 1, -1)
    raise NotFinite(int(np.argmin(np.isfinite(frames).all(axis=(0, 2)))))
