"""How arrays are sharded over the mesh: one table maps logical axis names to mesh axes.

Mesh axes: `data` (replicas), `fsdp` (replicas that shard the parameters among them), `context` (parts of each sequence)
and `tensor` (heads and MLP columns). In the scaling book's notation activations are X[B_{data,fsdp}, S_context, D], and
an MLP's first matrix is W[D_fsdp, F_tensor]. TPU slices are replicas of each other: `data` spans them, so that the slow
network between slices carries nothing but the sum of gradients.
Invariant: every parameter names all its axes, and no array uses a mesh axis twice.
"""

import contextlib
import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from nova_jax.config import MeshConfig
from nova_jax.utils.derivatives import linear_call
from nova_jax.utils.errors import UserError

MESH_AXES = ("data", "fsdp", "context", "tensor")  # From the outermost, slowest links to the innermost.
CONTEXT = "context"

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "sequence": CONTEXT,
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
  """Arrange devices in a mesh with the axes `MESH_AXES`.

  Args:
    cfg: sizes of the axes; a -1 takes the remaining devices. `data` spans the slices if there are several.
    devices: devices to use; None for all.

  Raises:
    UserError: the sizes don't multiply to the number of devices, or `data` is no multiple of the number of slices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = [getattr(cfg, axis) for axis in MESH_AXES]
  known = int(np.prod([size for size in sizes if size != -1]))
  if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
    raise UserError(f"mesh: expected positive sizes and at most one -1, got {dict(zip(MESH_AXES, sizes, strict=True))}")
  if -1 in sizes and len(devices) % known:
    others = {axis: size for axis, size in zip(MESH_AXES, sizes, strict=True) if size != -1}
    divisors = [str(size) for size in range(1, len(devices) + 1) if len(devices) % size == 0]
    raise UserError(
        f"mesh: {others} needs a multiple of {known} devices, there are {len(devices)}; beside a -1 expected sizes "
        f"whose product is {' or '.join(divisors)}")
  sizes = [len(devices) // known if size == -1 else size for size in sizes]
  if int(np.prod(sizes)) != len(devices):
    wanted = dict(zip(MESH_AXES, sizes, strict=True))
    raise UserError(f"mesh: {wanted} needs {int(np.prod(sizes))} devices, there are {len(devices)}")
  num_slices = len({getattr(device, "slice_index", 0) for device in devices})
  # An axis takes whole dimensions of the torus where possible, otherwise parts of them.
  arrange = functools.partial(mesh_utils.create_device_mesh, sizes, allow_split_physical_axes=True)
  if num_slices > 1:
    data, *rest = sizes
    if data % num_slices:
      raise UserError(f"mesh.data: expected a multiple of the {num_slices} slices, which it spans, got {data}")
    arrange = functools.partial(
        mesh_utils.create_hybrid_device_mesh, (data // num_slices, *rest), (num_slices, *[1] * len(rest)),
        allow_split_physical_axes=True)
  return Mesh(arrange(devices=devices), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def partition_spec(axes: Sequence[str | None]) -> PartitionSpec:
  """Map logical axis names to mesh axes by the table `RULES`.

  Raises:
    ValueError: two of them map to the same mesh axis.
  """
  spec = PartitionSpec(*(RULES[axis] for axis in axes))
  used = [name for entry in spec if entry for name in ([entry] if isinstance(entry, str) else entry)]
  twice = sorted({name for name in used if used.count(name) > 1})
  if twice:
    raise ValueError(
        f"axes {tuple(axes)} lie on the mesh axis {twice[0]!r} twice; see RULES in nova_jax/parallel/sharding.py")
  return spec


def state_shardings(mesh: Mesh, state: nnx.State) -> nnx.State:
  """Return the sharding of every variable of `state`, in the same tree structure.

  Raises:
    UserError: a variable has an axis without a name, with a size that its mesh axis does not divide, or that maps to
      the same mesh axis as another.
  """

  def shard(path, variable: nnx.Variable):
    name = "/".join(map(str, path))
    axes = variable.get_metadata().get("out_sharding")
    if axes is None:
      raise ValueError(f"{name} has no logical axis names")
    try:
      spec = partition_spec(axes)
    except ValueError as error:
      raise ValueError(f"{name}: {error}") from None
    for size, axis, mesh_axis in zip(variable.shape, axes, spec, strict=True):
      if mesh_axis is not None and size % mesh.shape[mesh_axis]:
        raise UserError(
            f"mesh.{mesh_axis}={mesh.shape[mesh_axis]} does not divide {size}, "
            f"the {axis!r} axis of {name} {variable.shape}")
    return variable.replace(NamedSharding(mesh, spec))

  return nnx.map_state(shard, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Return the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, partition_spec(("batch",)))


def replicated(mesh: Mesh) -> NamedSharding:
  """Return the sharding of arrays that every device holds in full."""
  return NamedSharding(mesh, PartitionSpec())


def current_mesh() -> AbstractMesh | None:
  """Return the mesh set around the code being traced; None without one or if it has a single device."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty or mesh.size == 1 else mesh


def current_platform() -> str:
  """Return the platform for which code is traced: that of the current mesh, or else JAX's default."""
  mesh = jax.sharding.get_abstract_mesh()
  return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def mesh_from_arrays(tree) -> Mesh | None:
  """Return the mesh over which the arrays of `tree` are sharded; None if each is on a single device."""
  meshes = {leaf.sharding.mesh for leaf in jax.tree.leaves(tree) if isinstance(leaf.sharding, NamedSharding)}
  assert len(meshes) <= 1, meshes
  return meshes.pop() if meshes else None


def use_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
  """Make a mesh the current one for the code within; None changes nothing."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def replicate(x: Array, mesh: Mesh | None) -> Array:
  """Replicate an array over the mesh, so that every process can read it; None leaves it as it is."""
  return x if mesh is None else jax.device_put(x, replicated(mesh))


def fitting_spec(mesh: AbstractMesh, shape: Sequence[int], axes: Sequence[str | None]) -> PartitionSpec:
  """Return `partition_spec(axes)`, except that axes whose sizes don't divide evenly are not sharded."""
  sizes = [_size(mesh, entry) for entry in partition_spec(axes)]
  return partition_spec([None if size % parts else axis for size, parts, axis in zip(shape, sizes, axes, strict=True)])


def spread_spec(mesh: AbstractMesh, size: int) -> PartitionSpec:
  """Return a sharding of the first axis alone, over those axes of the mesh within a replica that divide its size."""
  used, parts = [], 1
  for axis in MESH_AXES[1:]:
    if size % (parts * mesh.shape[axis]) == 0:
      used.append(axis)
      parts *= mesh.shape[axis]
  return PartitionSpec(tuple(used))


def constrain(x: Array, *axes: str | None) -> Array:
  """Constrain the sharding of an activation to the table's, if a mesh is set and the sizes divide evenly."""
  mesh = current_mesh()
  if mesh is None:
    return x
  return jax.lax.with_sharding_constraint(x, fitting_spec(mesh, x.shape, axes))


def gather_weight(weight: Array, axes: tuple[str | None, ...]) -> Array:
  """All-gather a parameter from the `fsdp` devices at this point; its gradient is reduce-scattered.

  This makes weights move to the activations. XLA on its own may do the opposite and give each device some channels of
  all samples, which takes far more memory.
  """
  if current_mesh() is None:
    return weight
  whole = lambda _, weight: constrain(weight, *(None if RULES[axis] == "fsdp" else axis for axis in axes))
  return linear_call(whole, lambda _, gradient: constrain(gradient, *axes), (), weight)


def _size(mesh: AbstractMesh, entry: str | tuple[str, ...] | None) -> int:
  names = () if entry is None else (entry,) if isinstance(entry, str) else entry
  return int(np.prod([mesh.shape[name] for name in names], dtype=int))
