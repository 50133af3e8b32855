"""Attention with one matrix of scores for all heads: the reference for the other backends."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nova_jax.models.attention.masks import Mask, to_matrix


def dense(
    q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"], mask: Mask | None = None,
    queries: Int[Array, "Q"] | None = None,
) -> Float[Array, "B Q H K"]:
  """Compute attention with one matrix of scores.

  Args:
    q, k, v, mask: as in `dispatch.attention`.
    queries: positions of the queries; None for 0, 1, ….
  """
  scores = jnp.einsum("bqhk,bshk->bhqs", q * (q.shape[-1] ** -0.5), k, preferred_element_type=jnp.float32)
  if mask is not None:
    queries = jnp.arange(q.shape[1]) if queries is None else queries
    scores = jnp.where(to_matrix(mask, queries, k.shape[1]), scores, -jnp.inf)
  return jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
