"""The transformer block that both encoders share, with its KV cache.

NOVA normalises the outputs within the residual (post-norm; paper, section 3 and appendix A): x += LN(Attn(x)),
x += LN(MLP(x)). The alternative normalises the inputs (pre-norm): x += Attn(LN(x)), x += MLP(LN(x)).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nova_jax.config import ModelConfig
from nova_jax.models.attention.dispatch import attention
from nova_jax.models.attention.masks import BlockCausal, Mask, ValidKeys
from nova_jax.models.embeddings import Rotation, rotate
from nova_jax.models.layers import (
  MLP,
  MLP_WIDENING,
  LayerNorm,
  Linear,
  gelu,
  num_layers,
  scan,
  stack,
  take_apart,
  unstack,
)
from nova_jax.models.tokens import gather_tokens
from nova_jax.parallel.context import SequenceSharding, shard_activations

# With small gains on its post-norms a new model starts near the identity. A loaded checkpoint replaces them.
POST_NORM_SCALE = 0.3


class Cache(NamedTuple):
  """Preallocated keys and values of all layers; the first `length` of the S positions are written."""

  k: Float[Array, "layers B S H K"]
  v: Float[Array, "layers B S H K"]
  length: Int[Array, ""]

  @classmethod
  def empty(cls, cfg: ModelConfig, depth: int, batch: int, size: int) -> "Cache":
    shape = (depth, batch, size, cfg.num_heads, cfg.width // cfg.num_heads)
    return cls(jnp.zeros(shape, cfg.dtype), jnp.zeros(shape, cfg.dtype), jnp.zeros((), jnp.int32))


class Attention(nnx.Module):
  """Multi-head self-attention with biased projections."""

  def __init__(self, dim: int, num_heads: int, backend: str, *, rngs: nnx.Rngs):
    self.backend = backend
    head_dim = dim // num_heads
    self.qkv = Linear((dim,), (3, num_heads, head_dim), ("embed", None, "heads", "head_dim"), parts=1, rngs=rngs)
    self.proj = Linear((num_heads, head_dim), (dim,), ("heads", "head_dim", "embed"), rngs=rngs)

  def __call__(
      self, x: Float[Array, "B S D"], rotation: Rotation | None, mask: Mask | None, sharding: SequenceSharding | None,
      ids: Int[Array, "B Q"] | None = None,
  ) -> Float[Array, "B Q D"]:
    """Attend from the tokens `ids` (None for all) to all tokens."""
    q, k, v = self.project(x, rotation)
    q = q if ids is None else gather_tokens(q, ids)
    return self.proj(attention(q, k, v, mask, backend=self.backend, sharding=sharding))

  def project(self, x: Float[Array, "B S D"], rotation: Rotation | None):
    """Return queries, keys and values, each [B, S, H, K], with the rotation applied."""
    q, k, v = take_apart(self.qkv(x), -3)
    return (q, k, v) if rotation is None else (rotate(q, rotation), rotate(k, rotation), v)

  def extend(self, x: Float[Array, "B Q D"], k_cache, v_cache, start, rotation: Rotation | None):
    """Attend from new tokens to all cached tokens and to themselves.

    The new tokens are one whole frame (the first one with its prefix), so a mask by length is causal.

    Args:
      x: new tokens.
      k_cache, v_cache: cached keys and values [B, S, H, K], written up to `start`.
      start: position of the first new token.
      rotation: rotary table of the new tokens.

    Returns:
      The output [B, Q, D] and both caches with the new tokens written.
    """
    q, k, v = self.project(x, rotation)
    k_cache = jax.lax.dynamic_update_slice_in_dim(k_cache, k, start, axis=1)
    v_cache = jax.lax.dynamic_update_slice_in_dim(v_cache, v, start, axis=1)
    mask = ValidKeys(start + x.shape[1])
    return self.proj(attention(q, k_cache, v_cache, mask, backend=self.backend)), (k_cache, v_cache)


class Block(nnx.Module):
  """Attention and MLP, each with its norm and a residual.

  `__call__`, `run_at` and `extend` differ only in their attention. `pre_attention` and `post_attention` are the parts
  that they share.
  """

  def __init__(self, dim: int, num_heads: int, backend: str, norm: str, *, rngs: nnx.Rngs):
    self.is_post = norm == "post"
    scale = POST_NORM_SCALE if self.is_post else 1.0
    self.attn = Attention(dim, num_heads, backend, rngs=rngs)
    self.norm1 = LayerNorm(dim, scale=scale)
    self.mlp = MLP(dim, MLP_WIDENING * dim, dim, gelu, rngs=rngs)
    self.norm2 = LayerNorm(dim, scale=scale)

  def __call__(self, x, rotation, mask, sharding):
    return self.post_attention(x, self.attn(self.pre_attention(x), rotation, mask, sharding))

  def run_at(self, x: Float[Array, "B S D"], rotation: Rotation | None, ids: Int[Array, "B Q"]):
    """Run the block without a mask, and return only the tokens `ids`: [B, Q, D]."""
    return self.post_attention(gather_tokens(x, ids), self.attn(self.pre_attention(x), rotation, None, None, ids))

  def extend(self, x, cache, start, rotation):
    """Run the block on new tokens, given `cache` = (keys, values) of earlier ones; return x and the new cache."""
    update, cache = self.attn.extend(self.pre_attention(x), *cache, start, rotation)
    return self.post_attention(x, update), cache

  def pre_attention(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """Return the input of attention."""
    return x if self.is_post else self.norm1(x)

  def post_attention(self, x: Float[Array, "B Q D"], update: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
    """Add `update`, the output of attention for the tokens x, and then the MLP's output."""
    if self.is_post:
      x = x + self.norm1(update)
      return x + self.norm2(self.mlp(x))
    x = x + update
    return x + self.mlp(self.norm2(x))


def make_blocks(cfg: ModelConfig, depth: int, rngs: nnx.Rngs) -> Block:
  """Create `depth` stacked blocks of the model's width."""
  return stack(lambda rngs: Block(cfg.width, cfg.num_heads, cfg.attention, cfg.norm, rngs=rngs), depth, rngs)


def run_blocks(
    blocks: Block, x: Float[Array, "B S D"], rotation: Rotation | None, mask: Mask | None, remat: str,
):
  """Run stacked blocks over whole sequences, which are sharded if the mesh axis `context` has several devices."""
  sharding = SequenceSharding.current(x.shape[1], balanced=isinstance(mask, BlockCausal))
  if sharding is not None:
    x = sharding.shard(x)
    rotation = None if rotation is None else Rotation(*(sharding.shard(table, axis=-2) for table in rotation))
    mask = ValidKeys(sharding.length) if mask is None else mask  # Hides the padding of `shard`.
  apply = lambda block, x, _: (shard_activations(block(x, rotation, mask, sharding)), None)
  x, _ = scan(blocks, shard_activations(x), None, apply, remat)
  return x if sharding is None else sharding.unshard(x)


def run_blocks_at(
    blocks: Block, x: Float[Array, "B S D"], rotation: Rotation | None, remat: str, ids: Int[Array, "B Q"],
) -> Float[Array, "B Q D"]:
  """Run stacked blocks without a mask, and return only the tokens `ids`; the last block computes no others."""
  if SequenceSharding.current(x.shape[1], balanced=False) is not None:
    return gather_tokens(run_blocks(blocks, x, rotation, None, remat), ids)
  before = num_layers(blocks) - 1
  apply = lambda block, x, _: (shard_activations(block(x, rotation, None, None)), None)
  x, _ = scan(blocks, shard_activations(x), None, apply, remat, before)
  (last,) = unstack(blocks, before)
  return shard_activations(last.run_at(x, rotation, ids))


def extend_blocks(blocks: Block, x: Float[Array, "B Q D"], cache: Cache, rotation: Rotation | None):
  """Run stacked blocks over new tokens; return the activations and the cache extended by these tokens."""
  x, (k, v) = scan(
      blocks, x, (cache.k, cache.v), lambda block, x, layer: block.extend(x, layer, cache.length, rotation))
  return x, Cache(k, v, cache.length + x.shape[1])
