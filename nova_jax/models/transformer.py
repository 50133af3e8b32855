"""The transformer block that both encoders share, with its KV cache.

Post-norm inside the residual (paper, section 3; appendix A): x += LN(Attn(x)), x += LN(MLP(x)). The pre-norm that it is
compared with: x += Attn(LN(x)), x += MLP(LN(x)).
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
from nova_jax.models.layers import MLP, LayerNorm, Linear, depth_of, gelu, scan, stack, unstack
from nova_jax.models.tokens import take
from nova_jax.parallel.context import Layout, sharded

# Small gains on the post-norms let a fresh model start near the identity; loading a checkpoint replaces them.
POST_NORM_SCALE = 0.3


class Cache(NamedTuple):
  """Keys and values of all layers, preallocated; `length` of the S places are written."""

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
      self, x: Float[Array, "B S D"], rotation: Rotation | None, mask: Mask | None, layout: Layout | None,
      places: Int[Array, "B Q"] | None = None,
  ) -> Float[Array, "B Q D"]:
    """Attend from the tokens at `places` (None for all) to all tokens."""
    q, k, v = self.project(x, rotation)
    q = q if places is None else take(q, places)
    return self.proj(attention(q, k, v, mask, backend=self.backend, layout=layout))

  def project(self, x: Float[Array, "B S D"], rotation: Rotation | None):
    """Return queries, keys and values [B, S, H, K], rotated."""
    q, k, v = jnp.moveaxis(self.qkv(x), -3, 0)
    return (q, k, v) if rotation is None else (rotate(q, rotation), rotate(k, rotation), v)

  def extend(self, x: Float[Array, "B Q D"], k_cache, v_cache, start, rotation: Rotation | None):
    """Attend from new tokens to all cached ones and themselves.

    The queries are one whole frame (with the prefix, if it is the first), so that causality needs only the length.

    Args:
      x: the new tokens.
      k_cache, v_cache: [B, S, H, K], written up to `start`.
      start: where the new tokens go.
      rotation: of the new tokens.

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

  The three ways to run it differ in what attention sees: `attended` is its input, `finish` all that follows.
  """

  def __init__(self, dim: int, num_heads: int, backend: str, norm: str, *, rngs: nnx.Rngs):
    self.is_post = norm == "post"
    scale = POST_NORM_SCALE if self.is_post else 1.0
    self.attn = Attention(dim, num_heads, backend, rngs=rngs)
    self.norm1 = LayerNorm(dim, scale=scale)
    self.mlp = MLP(dim, 4 * dim, dim, gelu, rngs=rngs)
    self.norm2 = LayerNorm(dim, scale=scale)

  def __call__(self, x, rotation, mask, layout):
    return self.finish(x, self.attn(self.attended(x), rotation, mask, layout))

  def read(self, x: Float[Array, "B S D"], rotation: Rotation | None, places: Int[Array, "B Q"]):
    """Like `__call__` without a mask, for the tokens at `places` alone: [B, Q, D]."""
    return self.finish(take(x, places), self.attn(self.attended(x), rotation, None, None, places))

  def extend(self, x, cache, start, rotation):
    """Like `__call__` for new tokens, with `cache` = (keys, values) of earlier ones; returns x and the new cache."""
    update, cache = self.attn.extend(self.attended(x), *cache, start, rotation)
    return self.finish(x, update), cache

  def attended(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """Return what attention is computed of."""
    return x if self.is_post else self.norm1(x)

  def finish(self, x: Float[Array, "B Q D"], update: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
    """Add what attention returned for the tokens x, and the MLP."""
    if self.is_post:
      x = x + self.norm1(update)
      return x + self.norm2(self.mlp(x))
    x = x + update
    return x + self.mlp(self.norm2(x))


def make_blocks(cfg: ModelConfig, depth: int, rngs: nnx.Rngs) -> Block:
  """Make `depth` stacked blocks of the model's width."""
  return stack(lambda rngs: Block(cfg.width, cfg.num_heads, cfg.attention, cfg.norm, rngs=rngs), depth, rngs)


def run_blocks(
    blocks: Block, x: Float[Array, "B S D"], rotation: Rotation | None, mask: Mask | None, remat: str,
):
  """Run stacked blocks over whole sequences, each spread over the mesh axis `context` if that has several devices."""
  layout = Layout.current(x.shape[1], balanced=isinstance(mask, BlockCausal))
  if layout is not None:
    x = layout.spread(x)
    rotation = None if rotation is None else Rotation(*(layout.spread(table, axis=-2) for table in rotation))
    mask = ValidKeys(layout.length) if mask is None else mask  # Hides what `spread` pads.
  apply = lambda block, x, _: (sharded(block(x, rotation, mask, layout)), None)
  x, _ = scan(blocks, sharded(x), None, apply, remat)
  return x if layout is None else layout.collect(x)


def read_blocks(
    blocks: Block, x: Float[Array, "B S D"], rotation: Rotation | None, remat: str, places: Int[Array, "B Q"],
) -> Float[Array, "B Q D"]:
  """Like `run_blocks` without a mask, for the tokens at `places`; the last block computes no others."""
  if Layout.current(x.shape[1], balanced=False) is not None:
    return take(run_blocks(blocks, x, rotation, None, remat), places)
  before = depth_of(blocks) - 1
  apply = lambda block, x, _: (sharded(block(x, rotation, None, None)), None)
  x, _ = scan(blocks, sharded(x), None, apply, remat, before)
  (last,) = unstack(blocks, before)
  return sharded(last.read(x, rotation, places))


def extend_blocks(blocks: Block, x: Float[Array, "B Q D"], cache: Cache, rotation: Rotation | None):
  """Run stacked blocks over new tokens; return the activations and the cache that has them."""
  x, (k, v) = scan(
      blocks, x, (cache.k, cache.v), lambda block, x, layer: block.extend(x, layer, cache.length, rotation))
  return x, Cache(k, v, cache.length + x.shape[1])
