"""Arrays that one replica has read reach all others with each of their bits; the hosts are made up."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nova_jax.checkpoints import replicas as replicas_lib
from nova_jax.checkpoints.replicas import Replicas, find_replicas, pass_all_on
from nova_jax.config import MeshConfig
from nova_jax.parallel.sharding import make_mesh

MESH = dict(data=4, fsdp=2)


def leaves(mesh, *axes):
  placed = lambda shape, dtype, spec: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
  return {
      "kernel": placed((3, 4), np.float32, PartitionSpec(*axes or (None, "fsdp"))),
      "half": placed((4,), jnp.bfloat16, PartitionSpec("fsdp")),
      "step": placed((), np.int32, PartitionSpec())}


def test_each_bit_reaches_all_replicas():
  mesh = make_mesh(MeshConfig(**MESH))
  replicas, wanted = Replicas(mesh), leaves(mesh)
  values = {
      "kernel": np.array([[-0.0, np.nan, -np.inf, 1e-42], [-1, 2, -3, 4], [5, -6, 7, np.float32(1) / 3]], np.float32),
      "half": np.array([-0.0, 1.5, -2, 3], jnp.bfloat16), "step": np.int32(-7)}
  read = {name: jax.device_put(values[name], replicas.like(leaf).sharding) for name, leaf in wanted.items()}
  assert len(read["kernel"].devices()) == 2
  everywhere = pass_all_on(replicas, wanted, read)
  for name, array in everywhere.items():
    assert array.sharding == wanted[name].sharding and array.dtype == wanted[name].dtype
    for shard in array.addressable_shards:  # Of all eight devices.
      assert np.asarray(shard.data).tobytes() == values[name][shard.index].tobytes()


def fake_mesh(hosts):
  """Return a mesh of devices that are on these hosts."""
  devices = np.array([types.SimpleNamespace(process_index=host) for host in hosts], object).reshape(4, 2)
  return types.SimpleNamespace(devices=devices, axis_names=("data", "fsdp"), shape=MESH)


@pytest.mark.parametrize("hosts, processes, expected", [
    ([0, 0, 1, 1, 2, 2, 3, 3], 4, True),
    ([0, 1, 2, 3, 4, 5, 6, 7], 8, True),
    ([0, 0, 1, 1, 1, 1, 1, 1], 2, True),
    ([0, 0, 0, 0, 1, 1, 1, 1], 2, False),  # The first host is in two replicas.
    ([0, 0, 0, 0, 0, 0, 0, 0], 1, False),
])
def test_replicas_are_read_once_if_each_has_hosts_of_its_own(hosts, processes, expected, monkeypatch):
  mesh, fake = make_mesh(MeshConfig(**MESH)), fake_mesh(hosts)
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  monkeypatch.setattr(replicas_lib, "_hosts", lambda devices: {
      fake.devices.reshape(-1)[device.id].process_index for device in devices.reshape(-1)})
  found = find_replicas(list(leaves(mesh).values()))
  assert (found is not None) == expected
  if found:
    assert found.count == 4 and found.reads
    monkeypatch.setattr(jax, "process_index", lambda: max(hosts))
    assert not found.reads
  assert find_replicas(list(leaves(mesh, None, "data").values())) is None


def test_a_mesh_without_replicas_is_read_by_all(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  mesh = Mesh(np.array(jax.devices()).reshape(1, 8), ("data", "fsdp"))
  assert find_replicas([jax.ShapeDtypeStruct((8,), np.float32, sharding=NamedSharding(mesh, PartitionSpec()))]) is None
