"""Frozen autoencoders between pixels uint8 [B,T,height,width,channels] and latents f32 [B,T,h,w,C], by name."""

from typing import Protocol

from jaxtyping import Float32
from jaxtyping import UInt8

from nova_jax.autoencoders.pixels import Array
from nova_jax.autoencoders.pixels import PixelAutoencoder
from nova_jax.config import did_you_mean


class Autoencoder(Protocol):
  """Maps clips to latents, which may be fewer in time and space, and back; never trained."""

  latent_dim: int  # C.
  spatial_stride: int  # Pixels a latent spans, each way.

  def encode(self, pixels: UInt8[Array, "B frames height width channels"]) -> Float32[Array, "B T h w C"]:
    """Encode a clip into latents, shifted and scaled as the model expects them."""

  def decode(self, latents: Float32[Array, "B T h w C"]) -> UInt8[Array, "B frames height width channels"]:
    """Decode such latents into pixels."""

  def num_latent_frames(self, num_frames: int) -> int:
    """Return how many latent frames a clip of `num_frames` has."""

  def num_frames(self, num_latent_frames: int) -> int:
    """Return how many frames decode from `num_latent_frames`."""


_AUTOENCODERS = {"pixels": PixelAutoencoder}


def make_autoencoder(name: str) -> Autoencoder:
  """Build the autoencoder `name`; an unknown one is a ValueError."""
  if name not in _AUTOENCODERS:
    raise ValueError(f"autoencoder: {name!r} is not known{did_you_mean(name, _AUTOENCODERS)}")
  return _AUTOENCODERS[name]()
