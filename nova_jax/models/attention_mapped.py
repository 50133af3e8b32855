"""Attention head after head, for CPU: one head's scores fit the cache, and the backward pass recomputes them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nova_jax.models.masks import Mask, matrix


def mapped(
    q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"], mask: Mask | None = None,
) -> Float[Array, "B Q H K"]:
  """Compute attention one head at a time; arguments as of `attention`."""
  visible = None if mask is None else matrix(mask, jnp.arange(q.shape[1]), k.shape[1])

  def head(qkv):
    q, k, v = qkv
    scores = jnp.einsum("qk,sk->qs", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    scores = scores if visible is None else jnp.where(visible, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1).astype(v.dtype) @ v

  heads = lambda x: jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1], x.shape[3])
  out = jax.lax.map(jax.checkpoint(head), (heads(q), heads(k), heads(v)))
  return jnp.swapaxes(out.reshape(q.shape[0], q.shape[2], q.shape[1], q.shape[3]), 1, 2)
