"""The autoencoder of small images: none. Latents are standardised pixels, grey or in colour.

  latent = ((x / 127.5 - 1) - mean) / std, and back as all our decoders end: x · 127.5 + 127.5, clamped, truncated.
Truncation may lose one step of 255 on the way there and back, as in the published code.
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
  """Maps pixels to latents one to one; an `Autoencoder`. The defaults standardise the moving digits (DataConfig's)."""

  latent_dim: int = 1  # C, here the channels of a pixel.
  spatial_stride: int = 1
  mean: float = -0.847  # Of pixels as -1 … 1.
  std: float = 0.46

  def encode(self, pixels: UInt8[Array, "*B C"]) -> Float32[Array, "*B C"]:
    """Standardise pixels, NumPy to NumPy and JAX to JAX."""
    return (pixels.astype("float32") / 127.5 - 1 - self.mean) / self.std

  def decode(self, latents: Float32[Array, "*B C"]) -> UInt8[Array, "*B C"]:
    """Undo `encode`; latents that are not finite are a `FloatingPointError`."""
    pixels = (latents * self.std + self.mean) * 127.5 + 127.5
    check_frames(pixels)
    return pixels.clip(0, 255).astype("uint8")

  def moments(self, pixels: UInt8[Array, "*B C"]) -> Float32[Array, "*B C"]:
    """Return pixels in -1 … 1: the means of latents that are not scaled and, without log-variances, certain."""
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
    del first  # Tiles share nothing.
    return self.decode(latents)
