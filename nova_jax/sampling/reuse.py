"""Approximate acceleration of the spatial encoder: features of tokens that have not changed are reused between sets.

From one set to the next few tokens change: those just written. Every `refresh_every` sets all features are computed,
and each block's keys and values are kept, in both halves. In between only two kinds of token go through the blocks, and
see the kept keys and values of all others:
  first half    the tokens written by the last set
  second half   these, and the set to be written now
As in LazyMAR (arXiv 2503.12450), but without a choice of tokens that depends on their values: shapes are static.
Invariant: when everything is refreshed for each set, the result is the exact one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nova_jax.config import ModelConfig
from nova_jax.models import embeddings as emb
from nova_jax.models.attention import attention
from nova_jax.models.layers import scan
from nova_jax.models.masks import Mask, ValidKeys
from nova_jax.models.nova import SpatialEncoder
from nova_jax.models.tokens import put, take
from nova_jax.models.transformer import Block, Cache


class Features(NamedTuple):
  """Keys and values of both halves: condition tokens first, then image tokens."""

  visible: Cache  # In the order in which they are written.
  all: Cache  # In place.

  @classmethod
  def empty(cls, cfg: ModelConfig, batch: int) -> "Features":
    """Make room for `batch` frames, all passes of guidance counted."""
    size, first = cfg.num_video_tokens + cfg.num_image_tokens, cfg.spatial_depth // 2
    return cls(Cache.empty(cfg, first, batch, size), Cache.empty(cfg, cfg.spatial_depth - first, batch, size))


def encode_set(
    encoder: SpatialEncoder, tokens: Float[Array, "B N D"], order: Int[Array, "B N"], start: Int[Array, ""],
    cond: Float[Array, "B M D"], wanted: Int[Array, "B W"], features: Features, max_visible: int,
    num_new: Int[Array, ""], max_new: int | None,
) -> tuple[Float[Array, "B W D"], Features]:
  """Encode the tokens of one set.

  Args:
    encoder: the spatial encoder.
    tokens, cond, wanted: as of `SpatialEncoder`.
    order: the order in which tokens are written.
    start: tokens known so far, the first ones of the order.
    features: of the set before.
    max_visible: padded number of known tokens.
    num_new: known tokens that `features` lacks, the last ones.
    max_new: their padded number, or None to compute everything.

  Returns:
    The encoding of the wanted tokens, and the features.
  """
  cfg, (batch, num_tokens, _), num_cond = encoder.cfg, tokens.shape, cond.shape[1]
  if not cfg.rotary:
    tokens = tokens + emb.space_embedding(cfg.width, cfg.image_grid).astype(tokens.dtype)
  # First half. Padding is sent out of range, where writes are dropped; keys behind `start` are hidden.
  first = 0 if max_new is None else start - num_new
  count = max_visible if max_new is None else max_new
  padded = jnp.pad(order, ((0, 0), (0, count)))
  ids = jax.lax.dynamic_slice_in_dim(padded, first, count, axis=1)
  places = first + jnp.arange(count)
  known = places < start
  places = jnp.broadcast_to(num_cond + jnp.where(known, places, num_tokens), (batch, count))
  x = take(tokens, ids)
  if max_new is None:
    x = jnp.concatenate([cond, x], axis=1)
    places = jnp.concatenate([_leading(batch, num_cond), places], axis=1)
    ids_with_cond, lead = ids, num_cond
  else:
    ids_with_cond, lead = ids, 0
  x, visible = _run(
      encoder.encoder_blocks, x, features.visible, places, encoder._rotation(ids_with_cond, lead),
      num_cond + max_visible, ValidKeys(num_cond + start))
  # Second half: all tokens in place, or those that are new and the set's.
  ids = jnp.where(known, ids, num_tokens)
  if max_new is None:
    x = jnp.concatenate([x[:, :num_cond], put(tokens, ids, x[:, num_cond:])], axis=1)
    ids, places = jnp.arange(num_tokens), _leading(batch, num_cond + num_tokens)
    rows = num_cond + wanted
  else:
    x = jnp.concatenate([x, take(tokens, wanted)], axis=1)
    there = start + jnp.arange(wanted.shape[1]) < num_tokens  # A set's padding may reach over the end of the order.
    ids = jnp.concatenate([ids, jnp.where(there, wanted, num_tokens)], axis=1)
    places = num_cond + ids
    ids = jnp.minimum(ids, num_tokens - 1)
    rows = None
  x, everything = _run(
      encoder.decoder_blocks, x, features.all, places, encoder._rotation(ids, lead), num_cond + num_tokens, None)
  x = x[:, -wanted.shape[1]:] if rows is None else take(x, rows)
  return encoder.norm(x), Features(visible, everything)


def _leading(batch: int, count: int) -> Int[Array, "B count"]:
  return jnp.broadcast_to(jnp.arange(count), (batch, count))


def _run(
    blocks: Block, x: Float[Array, "B Q D"], cache: Cache, places: Int[Array, "B Q"], rotation: emb.Rotation | None,
    num_keys: int, mask: Mask | None,
) -> tuple[Float[Array, "B Q D"], Cache]:
  """Run blocks over some tokens, which replace theirs of the first `num_keys` keys and values and see all of them."""

  def apply(block: Block, x, layer):
    q, k, v = block.attn.project(x, rotation)
    k, v = put(layer[0], places, k), put(layer[1], places, v)
    out = attention(q, k[:, :num_keys], v[:, :num_keys], mask, backend=block.attn.backend)
    x = x + block.norm1(block.attn.proj(out))
    return x + block.norm2(block.mlp(x)), (k, v)

  x, (k, v) = scan(blocks, x, (cache.k, cache.v), apply)
  return x, Cache(k, v, cache.length)
