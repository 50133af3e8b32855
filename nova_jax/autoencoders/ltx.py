"""The autoencoder of LTX-Video 0.95 (HaCohen et al. 2024): 8 frames of 32 × 32 pixels per latent of 128 channels.

Patches of pixels become channels. Resizes move positions into channels and back, with a shortcut around the
convolution. RMS norms have no weights. The decoder is also a denoising step, and modulates its norms by the timestep.
Invariant: the encoder is causal and the decoder is not; 8k + 1 frames are k + 1 latents.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nova_jax.autoencoders.layers import Conv, Dense, weight
from nova_jax.autoencoders.ltx_config import PATCH, STRIDES, LTXConfig, Stride

DOUBLE: Stride = (2, 2, 2)
NUM_FREQUENCIES = 128
EPS = 1e-8


def fold(x: Float[Array, "B T H W C"], stride: Stride) -> Float[Array, "B t h w D"]:
  """Move the positions of each cell of size `stride` into channels, ordered (channel, frame, row, column)."""
  r, p, q = stride
  b, t, h, w, c = x.shape
  x = x.reshape(b, t // r, r, h // p, p, w // q, q, c).transpose(0, 1, 3, 5, 7, 2, 4, 6)
  return x.reshape(b, t // r, h // p, w // q, c * r * p * q)


def unfold(x: Float[Array, "B t h w D"], stride: Stride) -> Float[Array, "B T H W C"]:
  """Undo `fold`."""
  r, p, q = stride
  b, t, h, w, d = x.shape
  x = x.reshape(b, t, h, w, -1, r, p, q).transpose(0, 1, 5, 2, 6, 3, 7, 4)
  return x.reshape(b, t * r, h * p, w * q, d // (r * p * q))


def patchify(x: Float[Array, "B T H W C"]) -> Float[Array, "B T h w D"]:
  """Move patches into channels, ordered (channel, column, row)."""
  return fold(x.swapaxes(2, 3), (1, PATCH, PATCH)).swapaxes(2, 3)


def unpatchify(x: Float[Array, "B T h w D"]) -> Float[Array, "B T H W C"]:
  """Undo `patchify`."""
  return unfold(x.swapaxes(2, 3), (1, PATCH, PATCH)).swapaxes(2, 3)


def activate(x: Float[Array, "*B D"], modulation: Float[Array, "2 D"] | None = None) -> Float[Array, "*B D"]:
  """Return silu(rms_norm(x) · (1 + scale) + shift), computed in float32; `modulation` holds shift and scale, if any."""
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + EPS)
  if modulation is not None:
    y = y * (1 + modulation[1]) + modulation[0]
  return jax.nn.silu(y).astype(x.dtype)


def frequencies(timestep: Float[Array, ""]) -> Float[Array, "F"]:
  """Return the cosines, then the sines, of a timestep at geometrically decreasing frequencies, in float32."""
  angles = timestep * jnp.exp(jnp.arange(NUM_FREQUENCIES) * (-math.log(10000) / NUM_FREQUENCIES))
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


class TimeEmbed(nnx.Module):
  """Maps the `frequencies` of a timestep to a modulation of `dim` values."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.timestep_proj = nnx.Dict(
        fc1=Dense(2 * NUM_FREQUENCIES, dim, rngs=rngs), fc2=Dense(dim, dim, rngs=rngs))

  def __call__(self, time: Float[Array, "F"]) -> Float[Array, "D"]:
    return self.timestep_proj.fc2(jax.nn.silu(self.timestep_proj.fc1(time)))


class ResBlock(nnx.Module):
  """A residual block of two convolutions; in a decoder (not causal) the norms are modulated."""

  def __init__(self, dim: int, *, causal: bool, rngs: nnx.Rngs):
    self.conv1 = Conv(dim, dim, (3, 3, 3), causal=causal, rngs=rngs)
    self.conv2 = Conv(dim, dim, (3, 3, 3), causal=causal, rngs=rngs)
    self.scale_shift_table = None if causal else weight(dim**-0.5 * rngs.params.normal((4, dim)))

  def __call__(
      self, x: Float[Array, "B T H W D"], modulation: Float[Array, "E"] | None = None
  ) -> Float[Array, "B T H W D"]:
    first = second = None
    if modulation is not None and self.scale_shift_table is not None:
      first, second = (modulation.reshape(4, -1) + self.scale_shift_table[...]).reshape(2, 2, -1)
    return x + self.conv2(activate(self.conv1(activate(x, first)), second))


class ResBlocks(nnx.Module):
  """A sequence of residual blocks, which share a time embedding if they are not causal."""

  def __init__(self, dim: int, depth: int, *, causal: bool, rngs: nnx.Rngs):
    self.time_embed = None if causal else TimeEmbed(4 * dim, rngs=rngs)
    self.resnets = nnx.List([ResBlock(dim, causal=causal, rngs=rngs) for _ in range(depth)])

  def __call__(
      self, x: Float[Array, "B T H W D"], time: Float[Array, "F"] | None = None
  ) -> Float[Array, "B T H W D"]:
    modulation = None if time is None or self.time_embed is None else self.time_embed(time)
    for resnet in self.resnets:
      x = resnet(x, modulation)
    return x


class Downsample(nnx.Module):
  """Folds cells into channels: those of a convolution, plus those of its input averaged in groups."""

  def __init__(self, dim: int, out_dim: int, stride: Stride, *, rngs: nnx.Rngs):
    self.stride, self.out_dim = stride, out_dim
    self.conv = Conv(dim, out_dim // math.prod(stride), (3, 3, 3), rngs=rngs)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B t h w D"]:
    # The first frame is repeated to fill its own cell.
    x = jnp.pad(x, ((0, 0), (self.stride[0] - 1, 0), (0, 0), (0, 0), (0, 0)), "edge")
    shortcut = fold(x, self.stride)
    shortcut = shortcut.reshape(*shortcut.shape[:-1], self.out_dim, -1).mean(-1)
    return fold(self.conv(x), self.stride) + shortcut


class Upsample(nnx.Module):
  """Unfolds cells of 2 × 2 × 2 from channels: those of a convolution, plus those of its input repeated four times."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.conv = Conv(dim, 4 * dim, (3, 3, 3), causal=False, rngs=rngs)

  def __call__(self, x: Float[Array, "B t h w D"]) -> Float[Array, "B T H W C"]:
    return unfold(self.conv(x) + jnp.tile(x, 4), DOUBLE)[:, 1:]  # The first cell holds one frame.


class DownBlock(ResBlocks):
  """Residual blocks, followed by a downsampling."""

  def __init__(self, dim: int, out_dim: int, depth: int, stride: Stride, *, rngs: nnx.Rngs):
    super().__init__(dim, depth, causal=True, rngs=rngs)
    self.downsamplers = nnx.List([Downsample(dim, out_dim, stride, rngs=rngs)])

  def __call__(
      self, x: Float[Array, "B T H W C"], time: Float[Array, "F"] | None = None
  ) -> Float[Array, "B t h w D"]:
    return self.downsamplers[0](super().__call__(x, time))


class UpBlock(ResBlocks):
  """Doubles the size and halves the channels, followed by residual blocks."""

  def __init__(self, dim: int, depth: int, *, rngs: nnx.Rngs):
    super().__init__(dim // 2, depth, causal=False, rngs=rngs)
    self.upsamplers = nnx.List([Upsample(dim, rngs=rngs)])

  def __call__(
      self, x: Float[Array, "B t h w D"], time: Float[Array, "F"] | None = None
  ) -> Float[Array, "B T H W C"]:
    return super().__call__(self.upsamplers[0](x), time)


class Encoder(nnx.Module):
  """Maps pixels to moments."""

  def __init__(self, cfg: LTXConfig, *, rngs: nnx.Rngs):
    dims, depths = cfg.block_out_channels, cfg.layers_per_block
    blocks = len(dims) - 1
    self.conv_in = Conv(cfg.in_channels * PATCH**2, dims[0], (3, 3, 3), rngs=rngs)
    self.down_blocks = nnx.List([
        DownBlock(dim, out_dim, depth, stride, rngs=rngs)
        for dim, out_dim, depth, stride in zip(dims[:-1], dims[1:], depths[:blocks], STRIDES[:blocks], strict=True)])
    self.mid_block = ResBlocks(dims[-1], depths[-1], causal=True, rngs=rngs)
    self.conv_out = Conv(dims[-1], cfg.latent_channels + 1, (3, 3, 3), rngs=rngs)

  def __call__(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w M"]:
    x = self.conv_in(patchify(x))
    for block in self.down_blocks:
      x = block(x)
    return self.conv_out(activate(self.mid_block(x)))


class Decoder(nnx.Module):
  """Maps latents to pixels at a timestep."""

  def __init__(self, cfg: LTXConfig, *, rngs: nnx.Rngs):
    dims, depths = cfg.decoder_block_out_channels[::-1], cfg.decoder_layers_per_block
    self.conv_in = Conv(cfg.latent_channels, dims[0], (3, 3, 3), causal=False, rngs=rngs)
    self.mid_block = ResBlocks(dims[0], depths[-1], causal=False, rngs=rngs)
    self.up_blocks = nnx.List([
        UpBlock(dim, depth, rngs=rngs) for dim, depth in zip(dims[:-1], depths[:-1], strict=True)])
    self.time_embed = TimeEmbed(2 * dims[-1], rngs=rngs)
    self.scale_shift_table = weight(rngs.params.normal((2, dims[-1])))
    self.timestep_scale = weight(jnp.float32(1000))
    self.conv_out = Conv(dims[-1], cfg.out_channels * PATCH**2, (3, 3, 3), causal=False, rngs=rngs)

  def __call__(self, z: Float[Array, "B t h w C"], timestep: Float[Array, ""] | float) -> Float[Array, "B T H W 3"]:
    time = frequencies(timestep * self.timestep_scale[...].astype(jnp.float32))
    x = self.mid_block(self.conv_in(z), time)
    for block in self.up_blocks:
      x = block(x, time)
    modulation = self.time_embed(time).reshape(2, -1) + self.scale_shift_table[...]
    return unpatchify(self.conv_out(activate(x, modulation)))


class LTXNetwork(nnx.Module):
  """The autoencoder network for one tile in time: 8k + 1 frames, k + 1 latents."""

  def __init__(self, cfg: LTXConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.encoder = Encoder(cfg, rngs=rngs)
    self.decoder = Decoder(cfg, rngs=rngs)
    self.shift_factors = None if cfg.latents_mean is None else weight(jnp.zeros(cfg.latents_mean))
    self.scaling_factors = None if cfg.latents_std is None else weight(jnp.ones(cfg.latents_std))

  @property
  def latent_dim(self) -> int:
    return self.cfg.latent_channels

  @property
  def time_stride(self) -> int:
    return 2 ** (len(self.cfg.decoder_block_out_channels) - 1)

  @property
  def spatial_stride(self) -> int:
    return PATCH * 2 ** (len(self.cfg.decoder_block_out_channels) - 1)

  def scaling(self) -> tuple[Float[Array, "C"] | float, Float[Array, "C"] | float]:
    """Return (shift, factor), as scalars or per channel: the model's latents are (z − shift) · factor."""
    if self.shift_factors is None or self.scaling_factors is None:
      return self.cfg.shift_factor or 0.0, self.cfg.scaling_factor
    return self.shift_factors[...].reshape(-1), self.scaling_factors[...].reshape(-1)

  def encode(self, x: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w M"]:
    """Return the moments of the latents, given pixels in −1 … 1: means, then one shared log-variance."""
    return self.encoder(x)

  def decode(self, z: Float[Array, "B t h w C"], timestep: Float[Array, ""] | float = 0.0) -> Float[Array, "B T H W 3"]:
    """Return pixels of about −1 … 1, given unscaled latents and the level 0 … 1 of the noise left in them."""
    return self.decoder(z, timestep)
