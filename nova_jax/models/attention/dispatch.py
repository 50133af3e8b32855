"""Attention with a choice of backends, sharded over the mesh.

A backend works on the arrays of one device. On a mesh, `shard_map` gives each device its samples, heads and queries.
Keys and values of a sharded sequence are gathered first; no other array moves between devices.
Invariant: all backends return the same numbers, up to rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float, Int

from nova_jax.models.attention import cudnn
from nova_jax.models.attention.dense import dense
from nova_jax.models.attention.mapped import mapped
from nova_jax.models.attention.masks import Mask
from nova_jax.models.attention.splash import kernel_spec, make_kernel, splash
from nova_jax.parallel.context import SequenceSharding
from nova_jax.parallel.sharding import CONTEXT, current_mesh, current_platform, fitting_spec

_FASTEST = {"tpu": "splash", "cpu": "mapped"}
_WHOLE = ("mapped", "cudnn")  # Backends that skip hidden frames; a device's part of a sequence has no whole ones.


def attention(
    q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"], mask: Mask | None = None, *,
    backend: str = "auto", sharding: SequenceSharding | None = None,
) -> Float[Array, "B Q H K"]:
  """Compute softmax(q kᵀ / √K) v, with the softmax in float32.

  Args:
    q: queries.
    k: keys.
    v: values.
    mask: mask of the keys that each query attends to; None for all.
    backend: name of the implementation, one of `ATTENTION` in config/model.py.
    sharding: sharding of the sequence, the same for queries and keys; None if it is not sharded.
  """
  mesh, platform = current_mesh(), current_platform()
  if backend == "auto":
    backend = "cudnn" if cudnn.fits(q, platform) else _FASTEST.get(platform, "dense")
  if backend in _WHOLE and sharding is not None:
    backend = "dense"
  if backend == "dense" and sharding is None:
    return dense(q, k, v, mask)  # XLA shards it without help.
  if mesh is not None:
    return _on_devices(mesh, platform, backend, sharding, q, k, v, mask)
  if backend in _WHOLE:
    return _whole(backend, platform, q, k, v, mask)
  positions = _positions(q, sharding)
  kernel = make_kernel(mask, positions, k.shape[1], q.shape[2], interpret=platform != "tpu")
  return splash(kernel, q, k, v, mask, positions[0])


def _whole(backend: str, platform: str, q: Array, k: Array, v: Array, mask: Mask | None) -> Array:
  if backend == "mapped":
    return mapped(q, k, v, mask)
  return cudnn.flash(q, k, v, mask, implementation="cudnn" if cudnn.fits(q, platform) else "xla")


def _positions(q: Array, sharding: SequenceSharding | None) -> Int[np.ndarray, "C Q"]:
  """Return the positions of each device's queries; one row if they are not sharded."""
  return np.arange(q.shape[1], dtype=np.int32)[None] if sharding is None else sharding.positions()


def _on_devices(
    mesh: AbstractMesh, platform: str, backend: str, sharding: SequenceSharding | None, q, k, v, mask: Mask | None
) -> Array:
  """Compute attention on each device for the samples, heads and queries that it holds."""
  sequence = CONTEXT if sharding else None
  axes = ("batch", "sequence" if sharding else None, "heads", None)
  q_spec, kv_spec = fitting_spec(mesh, q.shape, axes), fitting_spec(mesh, k.shape, axes)
  # Values that depend on the positions of the queries are arguments too, so that each device gets its own part.
  positions = _positions(q, sharding)
  kernel = spec = None
  if backend == "splash":
    num_heads = q.shape[2] // (mesh.shape[q_spec[2]] if q_spec[2] else 1)
    kernel = make_kernel(mask, positions, k.shape[1], num_heads, interpret=platform != "tpu")
    spec = kernel_spec(kernel, mask, mesh, sequence)

  def local(q, k, v, mask, positions, kernel):
    if sharding is not None:
      k, v = sharding.all_gather(k), sharding.all_gather(v)
    if kernel is not None:
      return splash(kernel, q, k, v, mask, positions[0])
    return _whole(backend, platform, q, k, v, mask) if backend in _WHOLE else dense(q, k, v, mask, positions[0])

  mask = jax.tree.map(jnp.asarray, mask)
  in_specs = (q_spec, kv_spec, kv_spec, jax.tree.map(lambda _: PartitionSpec(), mask), PartitionSpec(sequence), spec)
  return jax.shard_map(local, in_specs=in_specs, out_specs=q_spec, check_vma=False)(
      q, k, v, mask, jnp.asarray(positions), kernel)
