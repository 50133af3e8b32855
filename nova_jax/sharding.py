"""Where arrays live on the mesh: one table from logical axis names to mesh axes.

Mesh axes: `data` (replicas), `fsdp` (replicas that share out the parameters) and `tensor` (heads and MLP columns).
In the scaling book's notation a batch is I[B_{data,fsdp}, …], an MLP's first matrix W[D_fsdp, F_tensor].
Invariant: every parameter names all its axes, and no array uses a mesh axis twice.
"""

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nova_jax.config import MeshConfig

MESH_AXES = ("data", "fsdp", "tensor")

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "layers": None,
    "head_dim": None,
    "norm": None,
    "patch": None,
    "rank": None,
    "text": None,
    "vocab": None,
    None: None,
}


def make_mesh(cfg: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Arrange devices (all of them by default) as the config says.

  Raises:
    ValueError: the axes' sizes don't multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = [getattr(cfg, axis) for axis in MESH_AXES]
  known = int(np.prod([size for size in sizes if size != -1]))
  if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
    raise ValueError(f"mesh: expected positive sizes and at most one -1, got {dict(zip(MESH_AXES, sizes))}")
  sizes = [len(devices) // known if size == -1 else size for size in sizes]
  if int(np.prod(sizes)) != len(devices):
    raise ValueError(
        f"mesh: {dict(zip(MESH_AXES, sizes))} needs {int(np.prod(sizes))} devices, there are {len(devices)}")
  return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)


def partition_spec(axes: Sequence[str | None]) -> PartitionSpec:
  """Map logical axis names through the table."""
  return PartitionSpec(*(RULES[axis] for axis in axes))


def state_shardings(mesh: Mesh, state: nnx.State) -> nnx.State:
  """Return the sharding of every variable of `state`, in its structure.

  Raises:
    ValueError: a variable's axis has no name, or doesn't divide over its part of the mesh.
  """

  def shard(path, variable: nnx.Variable):
    name = "/".join(map(str, path))
    axes = variable.get_metadata().get("out_sharding")
    if axes is None:
      raise ValueError(f"{name} has no logical axis names")
    spec = partition_spec(axes)
    for size, axis, mesh_axis in zip(variable.shape, axes, spec):
      if mesh_axis is not None and size % mesh.shape[mesh_axis]:
        raise ValueError(
            f"mesh.{mesh_axis}={mesh.shape[mesh_axis]} does not divide {size}, "
            f"the {axis!r} axis of {name} {variable.shape}")
    return variable.replace(NamedSharding(mesh, spec))

  return nnx.map_state(shard, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Return the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, partition_spec(("batch",)))


def replicated(mesh: Mesh) -> NamedSharding:
  """Return the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())
