"""The video autoencoder of OpenSora-Plan 1.2: 4 frames of 8 × 8 pixels per latent; the first frame has its own latent.

  T frames ↔ (T − 1) / 4 + 1 latents
The encoder is 2-D up to the second downsampling and 3-D from there on; the decoder is 3-D throughout. Convolutions are
causal, but normalisation spans time, so a frame depends on all frames of its tile.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nova_jax.autoencoders.kl import CLIP, FRAME, Decoder, Encoder, EncoderDecoder, Kernel, Upsample
from nova_jax.autoencoders.layers import Conv
from nova_jax.autoencoders.published import COMMON, NetworkConfig, read_config
from nova_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class OpenSoraConfig(NetworkConfig):
  """Config of an autoencoder of four levels, the first two of which are 2-D in the encoder."""

  def __post_init__(self):
    super().__post_init__()
    if len(self.block_out_channels) != 4:
      raise UserError(f"block_out_channels: expected 4 levels, got {self.block_out_channels}")

  @classmethod
  def from_published(cls, values: Mapping[str, Any]) -> Self:
    """Read a published config.

    Raises:
      UserError: a field has a value that this network does not support; the error names it.
    """
    return read_config(cls, values, COMMON | {
        "down_block_types": ["DownEncoderBlock2D"] * 2 + ["DownEncoderBlock3D"] * 2,
        "up_block_types": ["UpDecoderBlock3D"] * 4})


class OpenSoraNetwork(EncoderDecoder):
  """The autoencoder network for one tile of 4k + 1 frames."""

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
  """Doubles height, width and the frames after the first by linear interpolation, then convolves."""

  def __init__(self, dim: int, kernel: Kernel, *, rngs: nnx.Rngs):
    self.conv = Conv(dim, dim, kernel, rngs=rngs)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B 2*T-1 2*H 2*W C"]:
    # Time is interpolated first, so that space is interpolated for the first frame and the others together.
    if x.shape[1] > 1:
      x = jnp.concatenate([x[:, :1], double(x[:, 1:], 1)], axis=1)
    return self.conv(double(double(x, 2), 3))


def double(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
  """Double an axis by linear interpolation between centres; the end values are repeated beyond the ends.

  Each value yields two: ¾ of itself plus ¼ of the previous value, and ¾ of itself plus ¼ of the next.
  """
  size = x.shape[axis]
  padded = jnp.pad(x, [(int(i == axis), int(i == axis)) for i in range(x.ndim)], "edge")
  near = 0.75 * x
  before = near + 0.25 * jax.lax.slice_in_dim(padded, 0, size, axis=axis)
  after = near + 0.25 * jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
  return jnp.stack([before, after], axis + 1).reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1:])
