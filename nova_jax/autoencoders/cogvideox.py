"""The autoencoder of CogVideoX (Yang et al. 2024): causal 3-D convolutions, 4 frames of 8 × 8 pixels per latent.

Each norm of the decoder is scaled and shifted by maps of the latents z, repeated to the size of the activations:
  y = GroupNorm(x) · scale(z) + shift(z).
Invariant: the first frame has its own latent. No layer averages it with another frame or repeats it in time, so an
image is a clip of one frame.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nova_jax.autoencoders.kl import CLIP, EncoderDecoder
from nova_jax.autoencoders.layers import END, NONE, Conv, GroupNorm, repeat_space
from nova_jax.autoencoders.published import COMMON, NetworkConfig, read_config, uniform_blocks
from nova_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class CogVideoXConfig(NetworkConfig):
  """An autoencoder whose first two blocks halve the number of frames."""

  block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
  layers_per_block: int = 3
  scaling_factor: float = 0.7
  use_quant_conv: bool = False
  use_post_quant_conv: bool = False

  def __post_init__(self):
    super().__post_init__()
    if len(self.block_out_channels) < 2:
      raise UserError(
          "block_out_channels: the first two blocks halve the number of frames, expected 2 blocks or more, "
          f"got {len(self.block_out_channels)}")

  @classmethod
  def from_published(cls, values: Mapping[str, Any]) -> Self:
    """Read a published config.

    Raises:
      UserError: a field has a value that this network does not support; the error names it.
    """
    # The number of blocks is given by `block_out_channels`; the published code doesn't count the types.
    fixed = COMMON | uniform_blocks(values, "down_block_types", "CogVideoXDownBlock3D")
    fixed |= uniform_blocks(values, "up_block_types", "CogVideoXUpBlock3D")
    return read_config(cls, values, fixed | {"temporal_compression_ratio": 4})

  @property
  def resampling(self) -> tuple[tuple[bool, bool], ...]:
    """For each block, whether it halves (in the decoder: doubles) space, and whether time."""
    last = len(self.block_out_channels) - 1
    return tuple((i < max(2, last), i < 2) for i in range(last + 1))


class Norm(GroupNorm):
  """Group normalisation over the clip; with `z_dim`, scaled and shifted by maps of the latents."""

  def __init__(self, dim: int, z_dim: int | None = None, *, rngs: nnx.Rngs):
    super().__init__(dim, over_time=True)
    if z_dim is not None:
      self.scale = Conv(z_dim, dim, (1, 1, 1), pads=NONE, rngs=rngs)
      self.shift = Conv(z_dim, dim, (1, 1, 1), pads=NONE, rngs=rngs)

  def __call__(
      self, x: Float[Array, "B T H W D"], z: Float[Array, "B t h w C"] | None = None
  ) -> Float[Array, "B T H W D"]:
    y = super().__call__(x)
    # Mapping the few latents first and repeating the result is cheaper, and gives the same as the reverse.
    return y if z is None else y * repeat_to(self.scale(z), x.shape) + repeat_to(self.shift(z), x.shape)


def repeat_to(maps: Float[Array, "B t h w D"], shape: tuple[int, ...]) -> Float[Array, "B T H W D"]:
  """Repeat latent maps to the `shape` of activations by nearest neighbour; the first frame stays separate in time."""
  frames = maps.shape[1]
  maps = maps.repeat(shape[2] // maps.shape[2], axis=2).repeat(shape[3] // maps.shape[3], axis=3)
  return maps if frames == shape[1] else repeat_time(maps, (shape[1] - 1) // (frames - 1))


def repeat_time(x: Float[Array, "B t H W D"], times: int) -> Float[Array, "B T H W D"]:
  """Repeat each frame except the first `times` times."""
  return jnp.concatenate([x[:, :1], x[:, 1:].repeat(times, axis=1)], axis=1)


class ResBlock(nnx.Module):
  """A residual block of two convolutions."""

  def __init__(self, dim: int, out_dim: int, z_dim: int | None = None, *, rngs: nnx.Rngs):
    self.norm1 = Norm(dim, z_dim, rngs=rngs)
    self.norm2 = Norm(out_dim, z_dim, rngs=rngs)
    self.conv1 = Conv(dim, out_dim, (3, 3, 3), rngs=rngs)
    self.conv2 = Conv(out_dim, out_dim, (3, 3, 3), rngs=rngs)
    self.conv_shortcut = None if dim == out_dim else Conv(dim, out_dim, (1, 1, 1), pads=NONE, rngs=rngs)

  def __call__(
      self, x: Float[Array, "B T H W C"], z: Float[Array, "B t h w Z"] | None = None
  ) -> Float[Array, "B T H W D"]:
    y = self.conv1(jax.nn.silu(self.norm1(x, z)))
    y = self.conv2(jax.nn.silu(self.norm2(y, z)))
    return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nnx.Module):
  """Halves height and width; with `time`, also averages pairs of frames after the first."""

  def __init__(self, dim: int, *, time: bool, rngs: nnx.Rngs):
    self.time = time
    self.conv = Conv(dim, dim, stride=2, pads=END, rngs=rngs)

  def __call__(self, x: Float[Array, "B T H W D"]) -> Float[Array, "B t h w D"]:
    if self.time:
      pairs = (x.shape[1] - 1) // 2
      means = x[:, 1:1 + 2 * pairs].reshape(x.shape[0], pairs, 2, *x.shape[2:]).mean(2)
      x = jnp.concatenate([x[:, :1], means], axis=1)
    return self.conv(x)


class Upsample(nnx.Module):
  """Doubles height and width; with `time`, also the frames after the first."""

  def __init__(self, dim: int, *, time: bool, rngs: nnx.Rngs):
    self.time = time
    self.conv = Conv(dim, dim, rngs=rngs)

  def __call__(self, x: Float[Array, "B t h w D"]) -> Float[Array, "B T H W D"]:
    # The convolution is 2-D, so that repeated frames are convolved once.
    x = self.conv(repeat_space(x))
    return repeat_time(x, 2) if self.time else x


class Block(nnx.Module):
  """Residual blocks, optionally followed by a resize: `downsamplers` in an encoder, `upsamplers` in a decoder."""

  def __init__(
      self, dim: int, out_dim: int, depth: int, z_dim: int | None = None, *,
      downsample: bool = False, upsample: bool = False, time: bool = False, rngs: nnx.Rngs,
  ):
    self.resnets = nnx.List([ResBlock(dim if i == 0 else out_dim, out_dim, z_dim, rngs=rngs) for i in range(depth)])
    self.downsamplers = nnx.List([Downsample(out_dim, time=time, rngs=rngs)] if downsample else [])
    self.upsamplers = nnx.List([Upsample(out_dim, time=time, rngs=rngs)] if upsample else [])

  def __call__(
      self, x: Float[Array, "B T H W C"], z: Float[Array, "B t h w Z"] | None = None
  ) -> Float[Array, "B U V X D"]:
    for resnet in self.resnets:
      x = resnet(x, z)
    for resample in (*self.downsamplers, *self.upsamplers):
      x = resample(x)
    return x


class Encoder(nnx.Module):
  """Maps pixels to moments."""

  def __init__(self, cfg: CogVideoXConfig, *, rngs: nnx.Rngs):
    dims = cfg.block_out_channels
    self.conv_in = Conv(cfg.in_channels, dims[0], (3, 3, 3), rngs=rngs)
    self.down_blocks = nnx.List([
        Block(dim, out_dim, cfg.layers_per_block, downsample=space, time=time, rngs=rngs)
        for dim, out_dim, (space, time) in zip(dims[:1] + dims[:-1], dims, cfg.resampling, strict=True)])
    self.mid_block = Block(dims[-1], dims[-1], 2, rngs=rngs)
    self.conv_norm_out = Norm(dims[-1], rngs=rngs)
    self.conv_out = Conv(dims[-1], 2 * cfg.latent_channels, (3, 3, 3), rngs=rngs)

  def __call__(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w M"]:
    x = self.conv_in(x)
    for block in self.down_blocks:
      x = block(x)
    x = self.mid_block(x)
    return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class Decoder(nnx.Module):
  """Maps latents to pixels."""

  def __init__(self, cfg: CogVideoXConfig, *, rngs: nnx.Rngs):
    dims, z_dim = cfg.block_out_channels[::-1], cfg.latent_channels
    self.conv_in = Conv(z_dim, dims[0], (3, 3, 3), rngs=rngs)
    self.mid_block = Block(dims[0], dims[0], 2, z_dim, rngs=rngs)
    self.up_blocks = nnx.List([
        Block(dim, out_dim, cfg.layers_per_block + 1, z_dim, upsample=space, time=time, rngs=rngs)
        for dim, out_dim, (space, time) in zip(dims[:1] + dims[:-1], dims, cfg.resampling, strict=True)])
    self.conv_norm_out = Norm(dims[-1], z_dim, rngs=rngs)
    self.conv_out = Conv(dims[-1], cfg.out_channels, (3, 3, 3), rngs=rngs)

  def __call__(self, z: Float[Array, "B t h w C"]) -> Float[Array, "B T H W 3"]:
    x = self.mid_block(self.conv_in(z), z)
    for block in self.up_blocks:
      x = block(x, z)
    return self.conv_out(jax.nn.silu(self.conv_norm_out(x, z)))


class CogVideoXNetwork(EncoderDecoder):
  """The autoencoder network for one tile in time: 4k + 1 frames, k + 1 latents."""

  time_stride = 4

  def __init__(self, cfg: CogVideoXConfig, *, rngs: nnx.Rngs):
    super().__init__(
        cfg, Encoder(cfg, rngs=rngs), Decoder(cfg, rngs=rngs), 2 * cfg.latent_channels, CLIP, rngs=rngs)
    self.spatial_stride = 2 ** sum(space for space, _ in cfg.resampling)
