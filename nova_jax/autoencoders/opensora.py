"""The video autoencoder of OpenSora-Plan 1.2: 8 × 8 pixels and 4 frames a latent, the first frame alone.

  T frames ↔ (T − 1) / 4 + 1 latents
Its encoder is 2-D at first and 3-D from the second downsampling on, its decoder 3-D throughout. Convolutions are
causal, but normalisation spans time, so that a frame depends on all of its tile.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nova_jax.autoencoders.kl import CLIP, FRAME, Decoder, Encoder, Halves, Kernel, Upsample
from nova_jax.autoencoders.layers import Conv
from nova_jax.autoencoders.published import COMMON, NetworkConfig, read_config
from nova_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class OpenSoraConfig(NetworkConfig):
  """An autoencoder of four levels, two of them in 2-D in the encoder."""

  def __post_init__(self):
    super().__post_init__()
    if len(self.block_out_channels) != 4:
      raise UserError(f"block_out_channels: expected 4 levels, got {self.block_out_channels}")

  @classmethod
  def from_published(cls, values: Mapping[str, Any]) -> Self:
    """Read a published config.

    Raises:
      ValueError: a field has a value that this network does not compute; the text names it.
    """
    return read_config(cls, values, COMMON | {
        "down_block_types": ["DownEncoderBlock2D"] * 2 + ["DownEncoderBlock3D"] * 2,
        "up_block_types": ["UpDecoderBlock3D"] * 4})


class OpenSoraNetwork(Halves):
  """The autoencoder of one tile of 4k + 1 frames."""

  time_stride = 4

  def __init__(self, cfg: OpenSoraConfig, *, rngs: nnx.Rngs):
    dims, depth = cfg.block_out_channels, cfg.layers_per_block
    num_moments = 2 * cfg.latent_channels
    encoder = Encoder(cfg.in_channels, num_moments, dims, depth, [FRAME, FRAME, CLIP, CLIP], rngs=rngs)

    def upsample(level: int, dim: int) -> nnx.Module:
      return ClipUpsample(dim, CLIP, rngs=rngs) if level < 2 else Upsample(dim, (1, *FRAME), rngs=rngs)

    decoder = Decoder(cfg.latent_channels, cfg.out_channels, dims[::-1], depth + 1, CLIP, upsample, rngs=rngs)
    super().__init__(cfg, encoder, decoder, num_moments, CLIP, rngs=rngs)


class ClipUpsample(nnx.Module):
  """Double height, width and the frames after the first, linearly, then convolve."""

  def __init__(self, dim: int, kernel: Kernel, *, rngs: nnx.Rngs):
    self.conv = Conv(dim, dim, kernel, rngs=rngs)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B 2T-1 2H 2W C"]:
    # Time is interpolated first: the first frame then shares the rest of the way with the others.
    if x.shape[1] > 1:
      x = jnp.concatenate([x[:, :1], double(x[:, 1:], 1)], axis=1)
    return self.conv(double(double(x, 2), 3))


def double(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
  """Double an axis by linear interpolation between centres; beyond the ends the last value goes on.

  Each value makes two: ¾ itself and ¼ the one before, ¾ itself and ¼ the one after.
  """
  size = x.shape[axis]
  padded = jnp.pad(x, [(int(i == axis), int(i == axis)) for i in range(x.ndim)], "edge")
  near = 0.75 * x
  before = near + 0.25 * jax.lax.slice_in_dim(padded, 0, size, axis=axis)
  after = near + 0.25 * jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
  return jnp.stack([before, after], axis + 1).reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1:])
