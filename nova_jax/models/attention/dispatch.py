"""Attention behind one function: backends by name, spread over the mesh.

A backend works on the arrays of one device. On a mesh, `shard_map` hands each device its samples, heads and queries;
keys and values of a spread sequence are gathered first, so that nothing moves but what is written here.
Invariant: all backends return the same numbers, up to rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float, Int

from nova_jax.models.attention.mapped import mapped
from nova_jax.models.attention.masks import Mask, matrix
from nova_jax.models.attention.splash import kernel_spec, make_kernel, splash
from nova_jax.parallel.context import Layout
from nova_jax.parallel.sharding import CONTEXT, current_mesh, current_platform, fitting_spec

_FASTEST = {"tpu": "splash", "cpu": "mapped"}


def attention(
    q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"], mask: Mask | None = None, *,
    backend: str = "auto", layout: Layout | None = None,
) -> Float[Array, "B Q H K"]:
  """Return softmax(q kᵀ / √K) v, the softmax in float32.

  Args:
    q: queries.
    k: keys.
    v: values.
    mask: which keys a query sees; None for all.
    backend: who computes it; see `ATTENTION` in config.py.
    layout: how a sequence, the same for queries and keys, is spread over devices; None if it is not.
  """
  mesh, platform = current_mesh(), current_platform()
  if backend == "auto":
    backend = _FASTEST.get(platform, "dense")
  if backend == "mapped" and layout is not None:
    backend = "dense"  # Mapped attention is fast by leaving out whole frames, which a part of a sequence doesn't have.
  if backend == "dense" and layout is None:
    return dense(q, k, v, mask)  # XLA spreads it by itself.
  if mesh is not None:
    return _on_devices(mesh, platform, backend, layout, q, k, v, mask)
  if backend == "mapped":
    return mapped(q, k, v, mask)
  kernel = make_kernel(mask, _positions(q, layout), k.shape[1], q.shape[2], interpret=platform != "tpu")
  return splash(kernel, q, k, v, mask)


def _positions(q: Array, layout: Layout | None) -> Int[np.ndarray, "C Q"]:
  """Return the positions of each device's queries; one row if they are not spread over devices."""
  return np.arange(q.shape[1], dtype=np.int32)[None] if layout is None else layout.positions()


def _on_devices(
    mesh: AbstractMesh, platform: str, backend: str, layout: Layout | None, q, k, v, mask: Mask | None
) -> Array:
  """Compute attention on each device for its samples, heads and queries."""
  sequence = CONTEXT if layout else None
  axes = ("batch", "sequence" if layout else None, "heads", None)
  q_spec, kv_spec = fitting_spec(mesh, q.shape, axes), fitting_spec(mesh, k.shape, axes)
  # What depends on the place of the queries is an argument too, so that each device gets its own part of it.
  positions = _positions(q, layout)
  if backend == "splash":
    num_heads = q.shape[2] // (mesh.shape[q_spec[2]] if q_spec[2] else 1)
    where = make_kernel(mask, positions, k.shape[1], num_heads, interpret=platform != "tpu")
    where_spec = kernel_spec(where, mask, mesh, sequence)
  else:
    where, where_spec = jnp.asarray(positions), PartitionSpec(sequence)

  def local(q, k, v, mask, where):
    if layout is not None:
      k, v = layout.gather(k), layout.gather(v)
    if backend == "splash":
      return splash(where, q, k, v, mask)
    return mapped(q, k, v, mask) if backend == "mapped" else dense(q, k, v, mask, where[0])

  mask = jax.tree.map(jnp.asarray, mask)
  in_specs = (q_spec, kv_spec, kv_spec, jax.tree.map(lambda _: PartitionSpec(), mask), where_spec)
  return jax.shard_map(local, in_specs=in_specs, out_specs=q_spec, check_vma=False)(q, k, v, mask, where)


def dense(
    q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"], mask: Mask | None = None,
    queries: Int[Array, "Q"] | None = None,
) -> Float[Array, "B Q H K"]:
  """Compute attention with one matrix of scores: the reference.

  Args:
    q, k, v, mask: as in `attention`.
    queries: the queries' positions; None for 0, 1, ….
  """
  scores = jnp.einsum("bqhk,bshk->bhqs", q * (q.shape[-1] ** -0.5), k, preferred_element_type=jnp.float32)
  if mask is not None:
    queries = jnp.arange(q.shape[1]) if queries is None else queries
    scores = jnp.where(matrix(mask, queries, k.shape[1]), scores, -jnp.inf)
  return jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
