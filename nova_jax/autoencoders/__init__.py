"""Frozen autoencoders between pixels uint8 [B,T,height,width,channels] and latents f32 [B,T,h,w,C], by name."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from flax import nnx
from jaxtyping import Float32, UInt8

from nova_jax.autoencoders.cogvideox import CogVideoXConfig, CogVideoXNetwork
from nova_jax.autoencoders.kl import KLConfig, KLNetwork
from nova_jax.autoencoders.ltx import LTXConfig, LTXNetwork
from nova_jax.autoencoders.neural import NeuralAutoencoder
from nova_jax.autoencoders.opensora import OpenSoraConfig, OpenSoraNetwork
from nova_jax.autoencoders.pixels import Array, PixelAutoencoder
from nova_jax.autoencoders.tiling import TimeTiles
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean


class Autoencoder(Protocol):
  """Maps clips to latents, which may be fewer in time and space, and back; never trained."""

  latent_dim: int  # C.
  spatial_stride: int  # Pixels a latent spans, each way.
  channels: int  # Of pixels.
  digest: str  # Of all that latents and pixels depend on, weights included.

  def encode(self, pixels: UInt8[Array, "B frames height width channels"]) -> Float32[Array, "B T h w C"]:
    """Encode a clip into latents, shifted and scaled as the model expects them."""

  def decode(self, latents: Float32[Array, "B T h w C"]) -> UInt8[Array, "B frames height width channels"]:
    """Decode such latents into pixels."""

  def num_latent_frames(self, num_frames: int) -> int:
    """Return how many latent frames a clip of `num_frames` has."""

  def num_frames(self, num_latent_frames: int) -> int:
    """Return how many frames decode from `num_latent_frames`."""

  def latent_tiles(self, num_latent_frames: int) -> list[slice]:
    """Return the latents that are decoded together; later ones may repeat the end of the one before."""

  def new_frames(self, latents: Float32[Array, "B T h w C"], first: bool) -> UInt8[Array, "B frames height width c"]:
    """Decode one such tile, without the frames that it shares with the one before."""


# By name: of grey pixels, as the moving digits have, and of pixels in colour.
BUILT_IN = {"pixels": PixelAutoencoder, "rgb": functools.partial(PixelAutoencoder, latent_dim=3, mean=0.0, std=0.5)}


def make_autoencoder(name: str) -> Autoencoder:
  """Build the autoencoder `name`; an unknown one is a ValueError."""
  if name not in BUILT_IN:
    raise UserError(f"autoencoder: {name!r} is not known{did_you_mean(name, BUILT_IN)}")
  return BUILT_IN[name]()


class Kind(NamedTuple):
  """A published kind of autoencoder: its config, its network and how it cuts clips."""

  config: type
  network: type[nnx.Module]
  time_tiles: TimeTiles


# By the class that a published config names.
NETWORKS: Mapping[str, Kind] = MappingProxyType({
    "AutoencoderKL": Kind(KLConfig, KLNetwork, TimeTiles(frames=1, latents=1, overlap=0, stride=1)),
    "AutoencoderKLOpenSora": Kind(OpenSoraConfig, OpenSoraNetwork, TimeTiles(17, 5, overlap=1, stride=4)),
    "AutoencoderKLCogVideoX": Kind(CogVideoXConfig, CogVideoXNetwork, TimeTiles(17, 5, overlap=0, stride=4)),
    "AutoencoderKLLTXVideo": Kind(LTXConfig, LTXNetwork, TimeTiles(249, 32, overlap=0, stride=8)),
})


def make_network(published: Mapping[str, Any], rngs: nnx.Rngs) -> nnx.Module:
  """Build the network that a published `vae/config.json` describes, with random weights.

  Raises:
    ValueError: a class or a value that is not supported; the text names it.
  """
  name = published.get("_class_name")
  if name not in NETWORKS:
    raise UserError(f"_class_name: expected one of {', '.join(NETWORKS)}, got {name!r}")
  kind = NETWORKS[name]
  return kind.network(kind.config.from_published(published), rngs=rngs)


def wrap(network: nnx.Module, **options: Any) -> NeuralAutoencoder:
  """Make an autoencoder of one of the networks and its weights; options as in `NeuralAutoencoder`.

  Raises:
    ValueError: a network whose clips can't be cut into tiles.
  """
  time_tiles = next(kind.time_tiles for kind in NETWORKS.values() if kind.network is type(network))
  if network.time_stride != time_tiles.stride:
    raise UserError(
        f"autoencoder: clips are cut into tiles for latents of {time_tiles.stride} frames, but this network's have "
        f"{network.time_stride}; another number of blocks is not supported")
  return NeuralAutoencoder(network, time_tiles, **options)
