"""Approximate acceleration of the spatial encoder: what has not changed much is reused between sets.

From one set to the next few tokens change: those just written. Every `refresh_every` sets all features are computed,
and each block's keys and values are kept, in both halves. In between only two kinds of token go through the blocks, and
see the kept keys and values of all others:
  first half    the tokens written by the last set
  second half   these, and the set to be written now
As in LazyMAR (arXiv 2503.12450), but without a choice of tokens that depends on their values: shapes are static.

Guidance costs a pass of its own for what is unconditional. Every `guidance_every` sets it is run, and for all tokens of
the sets up to the next time the difference between the passes' encodings is kept: LazyMAR's condition cache. In between
only the conditional pass is run, and the others are it less the difference.
Invariant: when everything is refreshed for each set, the result is the exact one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int

from nova_jax.config import ModelConfig
from nova_jax.models import embeddings as emb
from nova_jax.models.attention.dispatch import attention
from nova_jax.models.attention.masks import Mask, ValidKeys
from nova_jax.models.layers import num_layers, scan, unstack
from nova_jax.models.nova import SpatialEncoder
from nova_jax.models.tokens import gather_tokens, scatter_tokens
from nova_jax.models.transformer import Block, Cache
from nova_jax.sampling.set_schedule import TokenSet
from nova_jax.utils.arrays import AnyArray


class Features(NamedTuple):
  """Keys and values of both halves: condition tokens first, then image tokens; and what guidance keeps.

  What is not reused is None.
  """

  visible: Cache | None  # In the order in which they are written.
  all: Cache | None  # In place.
  differences: Float[Array, "others B N D"] | None = None  # Conditional less other encodings, in place.

  @classmethod
  def empty(cls, cfg: ModelConfig, batch: int) -> "Features":
    """Make room for keys and values of `batch` frames, all passes of guidance counted."""
    size, first = cfg.num_video_tokens + cfg.num_image_tokens, cfg.spatial_depth // 2
    return cls(Cache.empty(cfg, first, batch, size), Cache.empty(cfg, cfg.spatial_depth - first, batch, size))

  @classmethod
  def for_frame(
      cls, cfg: ModelConfig, batch: int, num_passes: int, refresh_every: int, guidance_every: int
  ) -> "Features | None":
    """Make room for what a frame of `batch` samples reuses; None if that is nothing."""
    keeps = guidance_every > 1 and num_passes > 1
    features = cls(None, None)
    if refresh_every > 1:
      features = cls.empty(cfg, batch if keeps else batch * num_passes)
    if keeps:
      shape = num_passes - 1, batch, cfg.num_image_tokens, cfg.width
      return features._replace(differences=jnp.zeros(shape, cfg.dtype))
    return features if refresh_every > 1 else None


def kept_sizes(sets: Sequence[TokenSet], guidance_every: int) -> list[int | None]:
  """Return for each set of how many tokens it keeps differences, padded for its group; None where it uses them."""
  most: dict[tuple[int, int], int] = {}
  groups = [(each.max_visible, each.max_size) for each in sets]
  for i in range(0, len(sets), guidance_every):
    size = sum(each.size for each in sets[i : i + guidance_every])
    most[groups[i]] = max(most.get(groups[i], 0), size, sets[i].max_size)
  return [None if i % guidance_every else most[group] for i, group in enumerate(groups)]


def encode_passes(
    encode: Callable[..., tuple[Float[Array, "rows W D"], "Features | None"]], order: Int[AnyArray, "B N"],
    ids: Int[AnyArray, "B W"], start: Int[ArrayLike, ""], features: Features, max_kept: int | None,
) -> tuple[Float[Array, "passes B W D"], Features]:
  """Encode the tokens of one set for all passes, of which only the conditional one is run if `max_kept` is None.

  Args:
    encode: function that encodes tokens in a range of passes, `encode(first, last, ids, features)`; without features
      it reuses nothing.
    order, start: order of tokens and number of known ones, as for `encode_set`.
    ids: tokens to encode.
    features: features that the set before left.
    max_kept: padded number of tokens, these and those of the next sets, whose differences are to be kept.
  """
  differences = features.differences
  assert differences is not None  # Made by `Features.for_frame`.
  num_passes, batch = len(differences) + 1, len(order)
  reused = None if features.visible is None else features
  if max_kept is None:
    z, after = encode(0, 1, ids, reused)
    z = jnp.concatenate([z[None], z - jax.vmap(gather_tokens, (0, None))(differences, ids)])
    return z, (after or features)._replace(differences=differences)
  wide = jax.lax.dynamic_slice_in_dim(jnp.pad(order, ((0, 0), (0, max_kept))), start, max_kept, axis=1)
  if reused is None:
    z, after = encode(0, num_passes, wide, None)[0], features
  else:
    z, after = encode(0, 1, wide, reused)
    z = jnp.concatenate([z, encode(1, num_passes, wide, None)[0]])
  z = z.reshape(num_passes, batch, max_kept, -1)
  places = jnp.where(start + jnp.arange(max_kept) < order.shape[1], wide, order.shape[1])
  differences = jax.vmap(scatter_tokens, (0, None, 0))(differences, places, z[:1] - z[1:])
  return z[:, :, : ids.shape[1]], (after or features)._replace(differences=differences)


def encode_set(
    encoder: SpatialEncoder, tokens: Float[Array, "B N D"], order: Int[Array, "B N"], start: Int[Array, ""] | int,
    cond: Float[Array, "B M D"], wanted: Int[Array, "B W"], features: Features, max_visible: int,
    num_new: Int[Array, ""] | int, max_new: int | None,
) -> tuple[Float[Array, "B W D"], Features]:
  """Encode the tokens of one set.

  Args:
    encoder: spatial encoder.
    tokens, cond, wanted: arguments of `SpatialEncoder`.
    order: order in which tokens are written.
    start: number of tokens known so far, the first ones of the order.
    features: features that the set before left.
    max_visible: padded number of known tokens.
    num_new: number of known tokens that `features` lacks, the last ones.
    max_new: padded number of these, or None to compute everything.

  Returns:
    The encoding of the wanted tokens, and the features.
  """
  assert features.visible is not None and features.all is not None  # Made by `Features.for_frame`.
  cfg, num_tokens, num_cond = encoder.cfg, tokens.shape[1], cond.shape[1]
  if not cfg.rotary:
    tokens = tokens + emb.space_embedding(cfg.width, cfg.image_grid).astype(tokens.dtype)
  num_keys, known = num_cond + max_visible, ValidKeys(num_cond + start)
  if max_new is None:
    # What is padding among the visible is hidden, and replaced when its turn comes.
    ids = order[:, :max_visible]
    x = jnp.concatenate([cond, gather_tokens(tokens, ids)], axis=1)
    x, visible = _run(
        encoder.encoder_blocks, x, features.visible, None, encoder.rotation(ids, num_cond), num_keys, known)
    places = jnp.where(jnp.arange(max_visible) < start, ids, num_tokens)  # Out of range, where writes are dropped.
    x = jnp.concatenate([x[:, :num_cond], scatter_tokens(tokens, places, x[:, num_cond:])], axis=1)
    ids, places, lead, queries = jnp.arange(num_tokens), None, num_cond, num_cond + wanted
  else:
    turns = start - num_new + jnp.arange(max_new)
    new = turns < start
    ids = jax.lax.dynamic_slice_in_dim(jnp.pad(order, ((0, 0), (0, max_new))), start - num_new, max_new, axis=1)
    places = jnp.broadcast_to(num_cond + jnp.where(new, turns, num_tokens), ids.shape)
    x, visible = _run(
        encoder.encoder_blocks, gather_tokens(tokens, ids), features.visible, places, encoder.rotation(ids, 0),
        num_keys, known)
    there = start + jnp.arange(wanted.shape[1]) < num_tokens  # A set's padding may reach over the end of the order.
    x = jnp.concatenate([x, gather_tokens(tokens, wanted)], axis=1)
    places = jnp.concatenate([jnp.where(new, ids, num_tokens), jnp.where(there, wanted, num_tokens)], axis=1)
    ids, places, lead = jnp.concatenate([ids, wanted], axis=1), num_cond + places, 0
    queries = jnp.broadcast_to(max_new + jnp.arange(wanted.shape[1]), wanted.shape)
  x, everything = _run(
      encoder.decoder_blocks, x, features.all, places, encoder.rotation(ids, lead), num_cond + num_tokens, None,
      queries)
  return encoder.norm(x), features._replace(visible=visible, all=everything)


def _run(
    blocks: Block, x: Float[Array, "B Q D"], cache: Cache, places: Int[Array, "B Q"] | None,
    rotation: emb.Rotation | None, num_keys: int, mask: Mask | None, queries: Int[Array, "B W"] | None = None,
) -> tuple[Float[Array, "B _ D"], Cache]:
  """Run blocks over some tokens, which see the first `num_keys` keys and values, their own replaced.

  Args:
    blocks: one half of the encoder.
    x: tokens to compute.
    cache: keys and values of all tokens.
    places: places of these tokens in the cache; None for the first ones.
    rotation: rotary positions of these tokens.
    num_keys, mask: keys that they see.
    queries: tokens that the last block computes and that are returned; None for all.
  """

  def apply(block: Block, x, layer, queries=None):
    q, k, v = block.attn.project(block.pre_attention(x), rotation)
    if places is None:
      k, v = (
          jax.lax.dynamic_update_slice_in_dim(kept, fresh, 0, axis=1)
          for kept, fresh in zip(layer, (k, v), strict=True))
    else:
      k, v = scatter_tokens(layer[0], places, k), scatter_tokens(layer[1], places, v)
    if queries is not None:
      x, q = gather_tokens(x, queries), gather_tokens(q, queries)
    out = attention(q, k[:, :num_keys], v[:, :num_keys], mask, backend=block.attn.backend)
    return block.post_attention(x, block.attn.proj(out)), (k, v)

  if queries is None:
    x, (k, v) = scan(blocks, x, (cache.k, cache.v), apply)
    return x, Cache(k, v, cache.length)
  before, (last,) = num_layers(blocks) - 1, unstack(blocks, num_layers(blocks) - 1)
  graph, state = nnx.split(blocks)
  x, (k, v) = scan(
      nnx.merge(graph, jax.tree.map(lambda leaf: leaf[:before], state)), x, (cache.k[:before], cache.v[:before]), apply)
  x, own = apply(last, x, (cache.k[before], cache.v[before]), queries)
  k, v = (jnp.concatenate([kept, fresh[None]]) for kept, fresh in zip((k, v), own, strict=True))
  return x, Cache(k, v, cache.length)
