"""What the quantised and full-clip models are made of: caption and tokens of a clip in one sequence, in NOVA's blocks.

  [text, more of a prefix, token 0 … token T·N − 1] → blocks → LayerNorm → an output a token

Tokens are in raster order, frame after frame, and as large as NOVA's image tokens: `clip_model` makes them the video
tokens of a `ModelConfig` of half its patch. Positions are absolute, those of the temporal encoder.
Invariant: only what stands before and behind the blocks, and the mask, differ between the two.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nova_jax.config import ModelConfig
from nova_jax.models import embeddings as emb
from nova_jax.models.attention.masks import Mask
from nova_jax.models.condition import Condition
from nova_jax.models.layers import LayerNorm
from nova_jax.models.transformer import make_blocks, run_blocks
from nova_jax.utils.errors import UserError


def clip_model(cfg: ModelConfig, depth: int) -> ModelConfig:
  """Return the sizes of a baseline of the NOVA model `cfg`: as wide, with as large tokens, and `depth` blocks.

  Fields of the spatial encoder and the denoiser have no meaning for it.

  Raises:
    UserError: patches that can't be halved.
  """
  if cfg.patch_size % 2:
    raise UserError(f"model.patch_size: the comparison needs an even number, got {cfg.patch_size}")
  return dataclasses.replace(cfg, patch_size=cfg.patch_size // 2, temporal_depth=depth)


class Backbone(nnx.Module):
  """Blocks over whole clips."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.text_embed = emb.TextEmbed(cfg, rngs=rngs)
    self.video_pos_embed = emb.VideoPosEmbed(cfg, rngs=rngs)
    self.blocks = make_blocks(cfg, cfg.temporal_depth, rngs)
    self.norm = LayerNorm(cfg.width)

  def embed_text(self, condition: Condition) -> Float[Array, "B L D"]:
    """Return the caption's tokens."""
    return self.text_embed(condition.text_embeds, condition.text_lengths, self.cfg.dtype)

  def positions(self, num_frames: int) -> Float[Array, "S D"]:
    """Return what is added to the tokens of a clip."""
    return self.video_pos_embed(num_frames).reshape(-1, self.cfg.width)

  def __call__(
      self, prefix: Float[Array, "B P D"], tokens: Float[Array, "B S D"], mask: Mask | None
  ) -> Float[Array, "B S D"]:
    """Run whole sequences; return the outputs of `tokens`."""
    x = jnp.concatenate([prefix, tokens], axis=1)
    return self.norm(run_blocks(self.blocks, x, None, mask, self.cfg.remat)[:, prefix.shape[1]:])


def tokens_of(latents: Float[Array, "B T h w C"], cfg: ModelConfig) -> Float[Array, "B S P"]:
  """Cut clips into tokens, frame after frame."""
  patches = emb.patchify(latents, 2 * cfg.patch_size)
  return patches.reshape(patches.shape[0], -1, patches.shape[-1])


def clips_of(tokens: Float[Array, "B S P"], cfg: ModelConfig) -> Float[Array, "B T h w C"]:
  """Undo `tokens_of`."""
  frames = tokens.reshape(tokens.shape[0], -1, cfg.num_video_tokens, tokens.shape[-1])
  return emb.unpatchify(frames, cfg.video_grid, 2 * cfg.patch_size)


def with_null(condition: Condition) -> Condition:
  """Return the conditions of guidance's passes in one batch: first with captions, then without."""
  return jax.tree.map(lambda *passes: jnp.concatenate(passes), condition, condition.without(None))


def forward_flops(cfg: ModelConfig, num_tokens: int, num_pairs: float) -> float:
  """Return the operations of one sample's forward pass through text embedding and blocks.

  Args:
    cfg: the sizes.
    num_tokens: of the sequence, prefix included.
    num_pairs: attended pairs of tokens.

  Counted as in `train/flops.py`: block = 24·D²·tokens + 4·D·pairs.
  """
  d = cfg.width
  return cfg.temporal_depth * (24 * d**2 * num_tokens + 4 * d * num_pairs) + 2 * d * cfg.text_dim * cfg.text_len
