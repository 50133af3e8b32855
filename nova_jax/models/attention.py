"""Attention with masks as values: one function, whoever computes it.

A mask says which keys a query sees and is made of numbers, not of a matrix, so that a kernel can compute it.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Mask(Protocol):
  """What a query may see."""

  def dense(self, num_queries: int, num_keys: int) -> Bool[Array, "Q S"]:
    """Return the mask as a matrix, true where the query (row) sees the key (column)."""


@dataclasses.dataclass(frozen=True)
class BlockCausal:
  """Frames see themselves and all before them; the prefix counts as part of frame 0.

  Attributes:
    prefix: condition tokens before the first frame.
    frame: tokens a frame.
  """

  prefix: int
  frame: int

  def dense(self, num_queries: int, num_keys: int) -> Bool[Array, "Q S"]:
    frame_of = jnp.maximum((jnp.arange(max(num_queries, num_keys)) - self.prefix) // self.frame, 0)
    return frame_of[:num_queries, None] >= frame_of[None, :num_keys]


@dataclasses.dataclass(frozen=True)
class ValidKeys:
  """All queries see the first `length` keys; the rest is padding or not written yet."""

  length: Int[Array, ""] | int

  def dense(self, num_queries: int, num_keys: int) -> Bool[Array, "Q S"]:
    return jnp.broadcast_to(jnp.arange(num_keys) < self.length, (num_queries, num_keys))


def attention(
    q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"], mask: Mask | None = None
) -> Float[Array, "B Q H K"]:
  """Return softmax(q kᵀ / √K) v, the softmax in float32; without a mask every query sees every key."""
  scores = jnp.einsum("bqhk,bshk->bhqs", q * (q.shape[-1] ** -0.5), k, preferred_element_type=jnp.float32)
  if mask is not None:
    scores = jnp.where(mask.dense(q.shape[1], k.shape[1]), scores, -jnp.inf)
  return jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
