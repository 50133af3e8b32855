"""An autoencoder without a network, for small images: latents are standardised pixels, grey or in colour.

  latent = ((x / 127.5 − 1) − mean) / std, and back x · 127.5 + 127.5, clamped and truncated as in all decoders.
As in the published code, truncation may lose one of 255 steps on a round trip.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from nova_jax.utils.digests import digest_values
from nova_jax.utils.finite import check_frames

Array = np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True)
class PixelAutoencoder:
  """An `Autoencoder` that maps each pixel to a latent. The defaults standardise the moving digits of `DataConfig`."""

  latent_dim: int = 1  # C, which here is the number of channels of a pixel.
  spatial_stride: int = 1
  mean: float = -0.847  # Mean of pixels in −1 … 1.
  std: float = 0.46

  def encode(self, pixels: UInt8[Array, "*B C"]) -> Float32[Array, "*B C"]:
    """Standardise pixels; NumPy arrays stay NumPy arrays, and JAX arrays JAX arrays."""
    return (pixels.astype("float32") / 127.5 - 1 - self.mean) / self.std

  def decode(self, latents: Float32[Array, "*B C"]) -> UInt8[Array, "*B C"]:
    """Undo `encode`; raises FloatingPointError if latents are not finite."""
    pixels = (latents * self.std + self.mean) * 127.5 + 127.5
    check_frames(pixels)
    return pixels.clip(0, 255).astype("uint8")

  def moments(self, pixels: UInt8[Array, "*B C"]) -> Float32[Array, "*B C"]:
    """Return the moments, which are pixels in −1 … 1: means of unscaled latents, without log-variances."""
    return pixels.astype("float32") / 127.5 - 1

  @property
  def digest(self) -> str:
    return digest_values(repr(self))

  @property
  def shift(self) -> np.float32:
    return np.float32(self.mean)

  @property
  def factor(self) -> np.float32:
    return np.float32(1 / self.std)

  def num_latent_frames(self, num_frames: int) -> int:
    return num_frames

  def num_frames(self, num_latent_frames: int) -> int:
    return num_latent_frames

  @property
  def channels(self) -> int:
    return self.latent_dim

  def latent_tiles(self, num_latent_frames: int) -> list[slice]:
    return [slice(t, t + 1) for t in range(num_latent_frames)]

  def new_frames(self, latents: Float32[Array, "*B C"], first: bool) -> UInt8[Array, "*B C"]:
    del first  # Tiles don't overlap.
    return self.decode(latents)
