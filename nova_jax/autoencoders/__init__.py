"""Frozen autoencoders, by name.

They map uint8 pixels [B, frames, height, width, channels] to float32 latents [B, T, h, w, C] and back.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax import nnx
from jaxtyping import Float32, UInt8

from nova_jax.autoencoders.cogvideox import CogVideoXConfig, CogVideoXNetwork
from nova_jax.autoencoders.kl import KLConfig, KLNetwork
from nova_jax.autoencoders.ltx import LTXConfig, LTXNetwork
from nova_jax.autoencoders.neural import Network, NeuralAutoencoder
from nova_jax.autoencoders.opensora import OpenSoraConfig, OpenSoraNetwork
from nova_jax.autoencoders.pixels import Array, PixelAutoencoder
from nova_jax.autoencoders.tiling import TimeTiles
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean


class Autoencoder(Protocol):
  """Maps clips to latents, which may be smaller in time and space, and back. It is never trained."""

  @property
  def latent_dim(self) -> int:
    """Channels C of a latent."""

  @property
  def spatial_stride(self) -> int:
    """Height and width of a latent in pixels."""

  @property
  def channels(self) -> int:
    """Channels of a pixel."""

  @property
  def digest(self) -> str:
    """Digest of all that latents and pixels depend on, weights included."""

  @property
  def shift(self) -> np.ndarray | np.float32:
    """What is taken from latents before they are scaled, for all channels or for each."""

  @property
  def factor(self) -> np.ndarray | np.float32:
    """What latents are multiplied by, for all channels or for each."""

  def moments(self, pixels: UInt8[Array, "B frames height width channels"]) -> Float32[Array, "B T h w M"]:
    """Return the moments of the latents (`moments.py`), before sampling, shift and scale."""

  def encode(self, pixels: UInt8[Array, "B frames height width channels"]) -> Float32[Array, "B T h w C"]:
    """Encode a clip into latents, shifted and scaled as the model expects."""

  def decode(self, latents: Float32[Array, "B T h w C"]) -> UInt8[Array, "B frames height width channels"]:
    """Decode latents, shifted and scaled as `encode` returns them, into pixels."""

  def num_latent_frames(self, num_frames: int) -> int:
    """Return the number of latent frames of a clip of `num_frames` frames."""

  def num_frames(self, num_latent_frames: int) -> int:
    """Return the number of frames that `num_latent_frames` latent frames decode to."""

  def latent_tiles(self, num_latent_frames: int) -> list[slice]:
    """Return the latent frames of each tile that is decoded at once; tiles may overlap."""

  def new_frames(self, latents: Float32[Array, "B T h w C"], first: bool) -> UInt8[Array, "B frames height width c"]:
    """Decode one tile of `latent_tiles`, without the frames that it shares with the previous tile."""


# Autoencoders by name: for grey pixels, such as those of the moving digits, and for colour.
BUILT_IN: Mapping[str, Callable[[], Autoencoder]] = {
    "pixels": PixelAutoencoder, "rgb": functools.partial(PixelAutoencoder, latent_dim=3, mean=0.0, std=0.5)}


def make_autoencoder(name: str) -> Autoencoder:
  """Create the built-in autoencoder `name`.

  Raises:
    UserError: the name is unknown.
  """
  if name not in BUILT_IN:
    raise UserError(f"autoencoder: {name!r} is not known{did_you_mean(name, BUILT_IN)}")
  return BUILT_IN[name]()


class NetworkKind(NamedTuple):
  """A published kind of autoencoder: its config, its network and its tiling in time."""

  config: type[Any]
  network: type[Any]
  time_tiles: TimeTiles


# Kinds by the class name in a published config.
NETWORKS: Mapping[str, NetworkKind] = MappingProxyType({
    "AutoencoderKL": NetworkKind(KLConfig, KLNetwork, TimeTiles(frames=1, latents=1, overlap=0, stride=1)),
    "AutoencoderKLOpenSora": NetworkKind(OpenSoraConfig, OpenSoraNetwork, TimeTiles(17, 5, overlap=1, stride=4)),
    "AutoencoderKLCogVideoX": NetworkKind(CogVideoXConfig, CogVideoXNetwork, TimeTiles(17, 5, overlap=0, stride=4)),
    "AutoencoderKLLTXVideo": NetworkKind(LTXConfig, LTXNetwork, TimeTiles(249, 32, overlap=0, stride=8)),
})


def make_network(published: Mapping[str, Any], rngs: nnx.Rngs) -> Network:
  """Create the network that a published `vae/config.json` describes, with random weights.

  Raises:
    UserError: a class or a value is not supported; the error names it.
  """
  name = published.get("_class_name")
  if name is None or name not in NETWORKS:
    raise UserError(f"_class_name: expected one of {', '.join(NETWORKS)}, got {name!r}")
  kind = NETWORKS[name]
  return kind.network(kind.config.from_published(published), rngs=rngs)


def wrap(network: Network, **options: Any) -> NeuralAutoencoder:
  """Create an autoencoder from a network with its weights; the options are those of `NeuralAutoencoder`.

  Raises:
    UserError: clips for this network can't be cut into tiles.
  """
  time_tiles = next(kind.time_tiles for kind in NETWORKS.values() if kind.network is type(network))
  if network.time_stride != time_tiles.stride:
    raise UserError(
        f"autoencoder: clips are cut into tiles for latents of {time_tiles.stride} frames, but this network's have "
        f"{network.time_stride}; another number of blocks is not supported")
  return NeuralAutoencoder(network, time_tiles, **options)
