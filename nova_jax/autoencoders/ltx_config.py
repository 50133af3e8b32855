"""The published config of LTX-Video's autoencoder (`ltx.py`), and what it must fit."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Self

from nova_jax.autoencoders.published import check_sizes, read_config
from nova_jax.utils.errors import UserError

Stride = tuple[int, int, int]  # Factors for frames, rows, columns.
# Factors by which the encoder's blocks divide sizes, in order. Each block of the decoder doubles all three.
STRIDES: tuple[Stride, ...] = ((1, 2, 2), (2, 1, 1), (2, 2, 2), (2, 2, 2))
PATCH = 4  # Side of a patch in pixels.


@dataclasses.dataclass(frozen=True)
class LTXConfig:
  """The relevant fields of a published `vae/config.json`, with its defaults.

  Attributes:
    layers_per_block: number of residual blocks in each encoder block, then in the middle block.
    decoder_layers_per_block: number of residual blocks in each decoder block as it runs, then in the middle block.
    latents_mean: shape, in PyTorch's layout, of a weight `shift_factors` that replaces `shift_factor`; None without it.
    latents_std: shape of a weight `scaling_factors` that replaces `scaling_factor`; None without it.
  """

  in_channels: int = 3
  out_channels: int = 3
  block_out_channels: tuple[int, ...] = (128, 256, 512, 1024, 2048)
  layers_per_block: tuple[int, ...] = (4, 6, 6, 2, 2)
  decoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 1024)
  decoder_layers_per_block: tuple[int, ...] = (5, 5, 5, 5)
  latent_channels: int = 128
  scaling_factor: float = 1.0
  shift_factor: float | None = None
  latents_mean: tuple[int, ...] | None = None
  latents_std: tuple[int, ...] | None = None

  def __post_init__(self):
    check_sizes(self)
    blocks = len(self.block_out_channels) - 1
    if not 2 <= blocks <= len(STRIDES):
      raise UserError(
          f"block_out_channels: expected 3 to {len(STRIDES) + 1} values, of 2 to {len(STRIDES)} blocks and the middle "
          f"one, got {len(self.block_out_channels)}")
    if len(self.layers_per_block) not in (blocks, blocks + 1):
      raise UserError(
          f"layers_per_block: expected {blocks + 1} values as block_out_channels has, got {len(self.layers_per_block)}")
    # The encoder's first two blocks share one doubling: the first in space, the second in time.
    dims = self.decoder_block_out_channels
    if len(dims) != blocks or any(2 * dim != next_dim for dim, next_dim in itertools.pairwise(dims)):
      raise UserError(
          f"decoder_block_out_channels: expected {blocks} values, each twice the one before, to undo the encoder's "
          f"{blocks} blocks, got {dims}")
    if len(self.decoder_layers_per_block) != blocks:
      raise UserError(
          f"decoder_layers_per_block: expected {blocks} values as decoder_block_out_channels has, "
          f"got {len(self.decoder_layers_per_block)}")
    channels = (self.latent_channels, 1, 1, 1)
    for name in ("latents_mean", "latents_std"):
      shape = getattr(self, name)
      if shape not in (None, channels, (1, *channels)):
        raise UserError(f"{name}: expected null or the shape {[1, *channels]} of a weight, got {shape}")
    if (self.latents_mean is None) != (self.latents_std is None):
      raise UserError(
          f"latents_mean, latents_std: expected both or neither, got {self.latents_mean} and {self.latents_std}")

  @classmethod
  def from_published(cls, values: Mapping[str, Any]) -> Self:
    """Read a published config.

    Raises:
      UserError: a field has a value that this network does not support; the error names it.
    """
    return read_config(cls, values, {"act_fn": "silu", "patch_size": PATCH})
