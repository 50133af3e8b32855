"""Arrays that the hosts of one replica read, and pass on to those of all others.

On a mesh whose axis `data` has several parts, each part holds a whole state. If each host read its own, storage would
be read once a replica; here the first part's hosts read, and all others get their arrays through the network between
the chips, which is faster. Orbax's SingleReplicaArrayHandler reads and passes on in one call: hosts would wait for ever
for one that finds damage, and its sums turn -0.0 into 0.0, which a digest takes for damage. So these are two calls, and
between them all hosts agree that the arrays are whole.
Invariant: every array has the bits that were read.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "data"


class Replicas:
  """The replicas of a state on a mesh, of which the first reads."""

  def __init__(self, mesh: Mesh):
    self.mesh = mesh
    self._axis = mesh.axis_names.index(_AXIS)
    self.count = mesh.devices.shape[self._axis]
    self._first = Mesh(np.take(mesh.devices, [0], self._axis), mesh.axis_names, axis_types=mesh.axis_types)

  @property
  def reads(self) -> bool:
    """Whether this process is one of those that read."""
    return jax.process_index() in _hosts(self._first.devices)

  def like(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Return the shape of an array as the first replica holds it."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(self._first, leaf.sharding.spec))

  def pass_on(self, leaf: jax.ShapeDtypeStruct, array: jax.Array | None) -> jax.Array:
    """Return an array on the whole mesh; all processes call it.

    Args:
      leaf: its shape, with the sharding wanted.
      array: array of the first replica; None in processes that don't read.
    """
    read = {} if array is None else {shard.device: shard.data for shard in array.addressable_shards}
    shape = (1, *leaf.sharding.shard_shape(leaf.shape))
    parts = [
        jnp.expand_dims(read[device], 0) if device in read else jax.device_put(np.zeros(shape, leaf.dtype), device)
        for device in self.mesh.local_devices]
    spread = NamedSharding(self.mesh, PartitionSpec(_AXIS, *leaf.sharding.spec))
    stacked = jax.make_array_from_single_device_arrays((self.count, *leaf.shape), spread, parts)
    return _only_one(leaf.sharding)(stacked)


def find_replicas(leaves: Sequence[jax.ShapeDtypeStruct]) -> Replicas | None:
  """Return the replicas of arrays; None if there is one, or if a host holds parts of several."""
  if jax.process_count() == 1 or not all(isinstance(leaf.sharding, NamedSharding) for leaf in leaves):
    return None
  meshes = {leaf.sharding.mesh for leaf in leaves}
  if len(meshes) != 1 or any(_AXIS in _names(leaf.sharding.spec) for leaf in leaves):
    return None
  (mesh,) = meshes
  if mesh.shape.get(_AXIS, 1) == 1:
    return None
  first, *others = np.moveaxis(mesh.devices, mesh.axis_names.index(_AXIS), 0)
  return None if _hosts(first) & _hosts(np.stack(others)) else Replicas(mesh)


def pass_all_on(replicas: Replicas, wanted: Mapping[str, jax.ShapeDtypeStruct], read: Mapping[str, jax.Array] | None):
  """Return all arrays by name on the whole mesh; see `Replicas.pass_on`."""
  return {name: replicas.pass_on(leaf, None if read is None else read[name]) for name, leaf in wanted.items()}


@functools.cache
def _only_one(sharding: NamedSharding):
  """Return a function that adds up replicas of which all but one are zeros; sums of their bits keep each bit."""

  def add(stacked: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(stacked, f"uint{8 * stacked.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(bits.sum(0, dtype=bits.dtype), stacked.dtype)

  return jax.jit(add, out_shardings=sharding)


def _hosts(devices: np.ndarray) -> set[int]:
  return {device.process_index for device in devices.reshape(-1)}


def _names(spec: PartitionSpec) -> set[str]:
  return {name for entry in spec if entry for name in ([entry] if isinstance(entry, str) else entry)}
