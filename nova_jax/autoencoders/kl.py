"""The image autoencoder of Stable Diffusion and SDXL (AutoencoderKL); OpenSora-Plan's is built from the same parts.

Each level is a sequence of residual blocks followed by a resize by two. Encoder and decoder have 2-D or 3-D kernels, as
chosen for each level. Parameters keep their published names.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
from flax import nnx
from jaxtyping import Array, Float

from nova_jax.autoencoders.layers import END, NONE, Conv, FrameAttention, GroupNorm, repeat_space
from nova_jax.autoencoders.published import COMMON, NetworkConfig, read_config, uniform_blocks

Kernel = tuple[int, ...]
FRAME: Kernel = (3, 3)
CLIP: Kernel = (3, 3, 3)


@dataclasses.dataclass(frozen=True)
class KLConfig(NetworkConfig):
  """Config of an autoencoder for images."""

  double_z: bool = True  # Whether the moments have variances.

  @classmethod
  def from_published(cls, values: Mapping[str, Any]) -> Self:
    """Read a published config.

    Raises:
      UserError: a field has a value that this network does not support; the error names it.
    """
    fixed = COMMON | uniform_blocks(values, "down_block_types", "DownEncoderBlock2D")
    return read_config(cls, values, fixed | uniform_blocks(values, "up_block_types", "UpDecoderBlock2D"))


class ResBlock(nnx.Module):
  """x + conv(norm(conv(norm(x)))); x passes a convolution of size 1 if the number of channels changes."""

  def __init__(self, dim: int, out_dim: int, kernel: Kernel, *, rngs: nnx.Rngs):
    over_time = len(kernel) == 3
    self.norm1 = GroupNorm(dim, over_time=over_time)
    self.conv1 = Conv(dim, out_dim, kernel, rngs=rngs)
    self.norm2 = GroupNorm(out_dim, over_time=over_time)
    self.conv2 = Conv(out_dim, out_dim, kernel, rngs=rngs)
    one = (1,) * len(kernel)
    self.conv_shortcut = Conv(dim, out_dim, one, pads=NONE, rngs=rngs) if out_dim != dim else None

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W D"]:
    y = self.conv1(jax.nn.silu(self.norm1(x)))
    y = self.conv2(jax.nn.silu(self.norm2(y)))
    return y + (self.conv_shortcut(x) if self.conv_shortcut else x)


class Downsample(nnx.Module):
  """Halves height and width, and time if the kernel is 3-D."""

  def __init__(self, dim: int, kernel: Kernel, *, rngs: nnx.Rngs):
    self.conv = Conv(dim, dim, kernel, stride=2, pads=END, rngs=rngs)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B t h w C"]:
    return self.conv(x)


class Upsample(nnx.Module):
  """Doubles height and width by nearest neighbour, then convolves."""

  def __init__(self, dim: int, kernel: Kernel, *, rngs: nnx.Rngs):
    self.conv = Conv(dim, dim, kernel, rngs=rngs)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T 2*H 2*W C"]:
    return self.conv(repeat_space(x))


class Level(nnx.Module):
  """Residual blocks, optionally followed by a resize."""

  def __init__(
      self, dim: int, out_dim: int, depth: int, kernel: Kernel, *, downsample: nnx.Module | None = None,
      upsample: nnx.Module | None = None, rngs: nnx.Rngs,
  ):
    self.resnets = nnx.List([ResBlock(dim if i == 0 else out_dim, out_dim, kernel, rngs=rngs) for i in range(depth)])
    self.downsamplers = nnx.List([downsample] if downsample else [])
    self.upsamplers = nnx.List([upsample] if upsample else [])

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B t h w D"]:
    for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
      x = layer(x)
    return x


class MidBlock(nnx.Module):
  """Attention between two residual blocks."""

  def __init__(self, dim: int, kernel: Kernel, *, rngs: nnx.Rngs):
    self.resnets = nnx.List([ResBlock(dim, dim, kernel, rngs=rngs) for _ in range(2)])
    self.attentions = nnx.List([FrameAttention(dim, over_time=len(kernel) == 3, rngs=rngs)])

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    x = self.resnets[0](x)
    return self.resnets[1](x + self.attentions[0](x))


class Encoder(nnx.Module):
  """Maps pixels to moments.

  Args:
    dim: channels of a pixel.
    out_dim: channels of the moments.
    dims: channels of each level.
    depth: number of residual blocks per level.
    kernels: kernel of each level's blocks and of the downsampling before it; the first convolution is 2-D.
  """

  def __init__(
      self, dim: int, out_dim: int, dims: Sequence[int], depth: int, kernels: Sequence[Kernel], *, rngs: nnx.Rngs
  ):
    self.conv_in = Conv(dim, dims[0], FRAME, rngs=rngs)
    self.down_blocks = nnx.List([
        Level(
            dims[max(i - 1, 0)], dims[i], depth, kernels[i], rngs=rngs,
            downsample=Downsample(dims[i], kernels[i + 1], rngs=rngs) if i + 1 < len(dims) else None)
        for i in range(len(dims))])
    self.mid_block = MidBlock(dims[-1], kernels[-1], rngs=rngs)
    self.conv_norm_out = GroupNorm(dims[-1], over_time=len(kernels[-1]) == 3)
    self.conv_out = Conv(dims[-1], out_dim, kernels[-1], rngs=rngs)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B t h w M"]:
    x = self.conv_in(x)
    for level in self.down_blocks:
      x = level(x)
    return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
  """Maps latents to pixels.

  Args:
    dim: channels of a latent.
    out_dim: channels of a pixel.
    dims: channels of each level, from latents to pixels.
    depth: number of residual blocks per level.
    kernel: kernel of all blocks.
    upsample: function (level, channels) → module that resizes after the level.
  """

  def __init__(
      self, dim: int, out_dim: int, dims: Sequence[int], depth: int, kernel: Kernel,
      upsample: Callable[[int, int], nnx.Module], *, rngs: nnx.Rngs,
  ):
    self.conv_in = Conv(dim, dims[0], kernel, rngs=rngs)
    self.mid_block = MidBlock(dims[0], kernel, rngs=rngs)
    self.up_blocks = nnx.List([
        Level(
            dims[max(i - 1, 0)], dims[i], depth, kernel, rngs=rngs,
            upsample=upsample(i, dims[i]) if i + 1 < len(dims) else None)
        for i in range(len(dims))])
    self.conv_norm_out = GroupNorm(dims[-1], over_time=len(kernel) == 3)
    self.conv_out = Conv(dims[-1], out_dim, kernel, rngs=rngs)

  def __call__(self, x: Float[Array, "B t h w C"]) -> Float[Array, "B T H W D"]:
    x = self.mid_block(self.conv_in(x))
    for level in self.up_blocks:
      x = level(x)
    return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class EncoderDecoder(nnx.Module):
  """An encoder and a decoder, with optional convolutions of size 1 for moments and latents between them.

  Args:
    cfg: network config.
    encoder: network from pixels to moments.
    decoder: network from latents to pixels.
    num_moments: channels of the moments.
    kernel: kernel whose number of axes the convolutions between them have.
  """

  def __init__(
      self, cfg: Any, encoder: Callable[[Array], Array], decoder: Callable[[Array], Array], num_moments: int,
      kernel: Kernel, *, rngs: nnx.Rngs
  ):
    self.cfg, self.latent_dim = cfg, cfg.latent_channels
    self.spatial_stride = 2 ** (len(cfg.block_out_channels) - 1)
    self.encoder, self.decoder = encoder, decoder
    between = lambda dim: Conv(dim, dim, (1,) * len(kernel), pads=NONE, rngs=rngs)
    self.quant_conv = between(num_moments) if cfg.use_quant_conv else None
    self.post_quant_conv = between(self.latent_dim) if cfg.use_post_quant_conv else None

  def encode(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w M"]:
    """Return the moments of the latents, given pixels in −1 … 1."""
    moments = self.encoder(x)
    return self.quant_conv(moments) if self.quant_conv else moments

  def decode(self, z: Float[Array, "B t h w C"]) -> Float[Array, "B T H W 3"]:
    """Return pixels of about −1 … 1, given unscaled latents."""
    return self.decoder(self.post_quant_conv(z) if self.post_quant_conv else z)

  def scaling(self) -> tuple[float, float]:
    """Return (shift, factor): the model's latents are (z − shift) · factor."""
    return self.cfg.shift_factor or 0.0, self.cfg.scaling_factor


class KLNetwork(EncoderDecoder):
  """The autoencoder network for images; it treats each frame of a clip as an image."""

  time_stride = 1

  def __init__(self, cfg: KLConfig, *, rngs: nnx.Rngs):
    dims, depth = cfg.block_out_channels, cfg.layers_per_block
    num_moments = (2 if cfg.double_z else 1) * cfg.latent_channels
    encoder = Encoder(cfg.in_channels, num_moments, dims, depth, [FRAME] * len(dims), rngs=rngs)
    decoder = Decoder(
        cfg.latent_channels, cfg.out_channels, dims[::-1], depth + 1, FRAME,
        lambda level, dim: Upsample(dim, FRAME, rngs=rngs), rngs=rngs)
    super().__init__(cfg, encoder, decoder, num_moments, FRAME, rngs=rngs)
