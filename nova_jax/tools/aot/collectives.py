"""Collectives of a compiled program: their kind, bytes, number of runs and mesh axes.

With n devices in a group and the bytes of the larger of operand and result, a device sends:
  all-gather, reduce-scatter, all-to-all  (n − 1)/n · bytes;   all-reduce  twice that;   permute  bytes
Invariant: a collective that XLA split into asynchronous parts is counted once.
"""

import dataclasses
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from nova_jax.tools.aot.hlo import Instruction, Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Between slices, arrays pass through the hosts, as a send and a receive that name the collective.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective instruction."""

  kind: str
  name: str  # Name of the JAX operation.
  times: int  # Number of runs.
  depth: int  # Number of loops around it.
  bytes: int  # Bytes of the whole array per run.
  shapes: tuple[tuple[int, ...], ...]  # Shapes of its results.
  group_size: int
  axes: tuple[str, ...]  # Mesh axes that its groups span.
  dims: tuple[int, ...]  # Dimensions of the torus that its groups span; none if they span slices.

  @property
  def wire_bytes(self) -> float:
    """Bytes that a device sends per run."""
    if self.kind == "collective-permute":
      return self.bytes
    return (2 if self.kind == "all-reduce" else 1) * self.bytes * (self.group_size - 1) / self.group_size


def find_collectives(program: Program, mesh: Mesh) -> list[Collective]:
  """Return all collectives of a program that was compiled for `mesh`."""
  found: dict[object, Collective] = {}
  for times, depth, computation in program.walk():
    for outer in program.computations[computation]:
      for line in program.within(outer):
        kind = line.opcode.removesuffix("-start")
        if kind in KINDS:
          collective = _collective(line, outer, kind, times, depth, mesh)
        elif kind == "send" and _BETWEEN_SLICES.search(line.attributes):
          collective = _between_slices(line, times, depth, mesh)
        else:
          continue
        if collective.group_size > 1:
          found[computation, collective.kind, collective.shapes, _identity(line, outer)] = collective
  return list(found.values())


def _identity(line: Instruction, outer: Instruction) -> str:
  """Return a name that only the parts of a collective share that was split over fusions.

  Separate copies of a collective also share a channel, but each moves its own array.
  """
  if line is outer:
    return line.name
  found = re.search(r'chain_id="\d+"', line.attributes) or re.search(r"channel_id=\d+", line.attributes)
  return found[0] if found else line.name


def _collective(
    line: Instruction, outer: Instruction, kind: str, times: int, depth: int, mesh: Mesh) -> Collective:
  arrays = [array for array in line.arrays if array.dims]
  if line.opcode == "all-gather-start":
    arrays = arrays[len(arrays) // 2:]  # The tuple holds operands and results.
  elif line.opcode == "collective-permute-start":
    arrays = arrays[1:2] or arrays
  size = sum(array.bytes for array in arrays)
  if kind == "all-reduce" and "all-reduce-scatter" in outer.attributes:
    kind = "reduce-scatter"  # A fusion of an all-reduce and a slice of its result.
  groups = replica_groups(line.attributes, mesh.size // _num_slices(mesh))
  if kind == "reduce-scatter" and line.opcode.startswith("reduce-scatter"):
    size *= len(groups[0])
  name = re.search(r'op_name="([^"]*)"', line.attributes + outer.attributes)
  shapes = tuple(array.dims for array in arrays)
  return Collective(
      kind, name[1] if name else "", times, depth, size, shapes, len(groups[0]), spanned_axes(groups, mesh),
      _spanned_dims(groups, mesh))


def _between_slices(line: Instruction, times: int, depth: int, mesh: Mesh) -> Collective:
  kind = _BETWEEN_SLICES.search(line.attributes)[1].lower().replace("_", "-")
  name = re.search(r'op_name="([^"]*)"', line.attributes)
  array = line.arrays[0]
  # `data` is the axis that spans slices.
  return Collective(
      kind, name[1] if name else "", times, depth, array.bytes, (array.dims,), _num_slices(mesh), ("data",), dims=())


def replica_groups(attributes: str, num_devices: int) -> np.ndarray:
  """Return the groups of a collective [groups, devices], as indices into the mesh's devices.

  Several slices run the same program, so the groups are those of the first slice.

  Raises:
    ValueError: their notation is unknown.
  """
  pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes)
  if pairs:
    return np.array([[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1]) if a != b] or [[0]])
  named = re.search(
      r"replica_groups=@?mesh\[([^\]]*)\](?:\s*,?\s*device_ids=\((.*?)\)(?=\s*\{))?\s*\{([^}]*)\}", attributes)
  if named:
    return _named_groups(named[1], named[2], named[3])
  iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
  if iota:
    shape, dims = (tuple(map(int, text.split(","))) for text in iota.groups()[:2])
    order = tuple(map(int, iota[3].split(","))) if iota[3] else range(len(dims))
    return np.arange(np.prod(dims)).reshape(dims).transpose(order).reshape(shape)
  listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", attributes)
  if listed:
    groups = [list(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
    return np.array(groups) if groups else np.arange(num_devices)[None]
  raise ValueError(f"replica_groups: not understood in {attributes[:200]!r}")


def _named_groups(mesh_text: str, order_text: str | None, axes_text: str) -> np.ndarray:
  """Read groups given as axes of an XLA mesh: mesh['a'=4,'b'=2] {'b'}, with parts of axes as 'a':(2)2.

  The order of the devices in the mesh may follow it: device_ids=([2,4]T(1,0)).
  """
  axes = [(name, int(size)) for name, size in re.findall(r"'?([\w.]+)'?=(\d+)", mesh_text)]
  wanted = re.findall(r"'?([A-Za-z_][\w.]*)'?(?::\((\d+)\)(\d+))?", axes_text)
  # Split each axis into the parts before, in and after the requested one.
  shape, inside = [], []
  for name, size in axes:
    part = next(((int(before or 1), int(length or size)) for other, before, length in wanted if other == name), None)
    before, length = part if part else (size, 1)
    shape += [before, length, size // (before * length)]
    inside.append(len(shape) - 2)
  grid = _order(order_text, int(np.prod(shape))).reshape(shape)
  outside = [axis for axis in range(len(shape)) if axis not in inside]
  num = int(np.prod([shape[axis] for axis in inside]))
  return grid.transpose(*outside, *inside).reshape(-1, num)


def _order(text: str | None, num_devices: int) -> np.ndarray:
  """Return the devices of an XLA mesh in order: counted up, or with transposed axes, [2,4]T(1,0)."""
  devices = np.arange(num_devices)
  if text is None:
    return devices
  found = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
  if not found:
    raise ValueError(f"replica_groups: an order of devices is not understood, {text[:80]!r}")
  devices = devices.reshape([int(size) for size in found[1].split(",")])
  return devices.transpose([int(axis) for axis in found[2].split(",")]) if found[2] else devices


def spanned_axes(groups: np.ndarray, mesh: Mesh) -> tuple[str, ...]:
  """Return the mesh axes along which the members of a group differ."""
  coords = np.stack(np.unravel_index(groups, mesh.devices.shape), axis=-1)
  varies = (coords != coords[:, :1]).any(axis=(0, 1))
  return tuple(name for name, differs in zip(mesh.axis_names, varies, strict=True) if differs)


def _spanned_dims(groups: np.ndarray, mesh: Mesh) -> tuple[int, ...]:
  """Return the dimensions of the torus that the groups' devices span; none if they are in several slices."""
  devices = mesh.devices.reshape(-1)
  group = [devices[place] for place in groups[0]]
  if len({slice_number(device) for device in group}) > 1:
    return ()
  coords = np.array([device.coords for device in group])
  return tuple(map(int, np.flatnonzero((coords != coords[0]).any(axis=0)))) or (0,)


def _num_slices(mesh: Mesh) -> int:
  return len({slice_number(device) for device in mesh.devices.reshape(-1)})


def slice_number(device: jax.Device) -> int:
  """Return the number of the slice that a device is in."""
  return getattr(device, "slice_index", None) or 0


def gathers_outside_layers(
    collectives: Sequence[Collective], stacks: Sequence[tuple[int, ...]], parts: int,
) -> list[Collective]:
  """Return the all-gathers of parameters that happen outside the layer that needs them.

  These are gathers of all layers of a stacked parameter at once, and gathers that the compiler moved out of their loop.
  A scan is a loop, and the name of an operation shows the loops around it.

  Args:
    collectives: collectives of the program.
    stacks: shapes of the stacked parameters, layers first.
    parts: number of devices over which a parameter may stay sharded after the gather (mesh axis `tensor`).
  """
  whole = {_dims(shape) for shape in stacks}
  for shape in stacks:
    whole |= {_dims((*shape[:i], size // parts, *shape[i + 1:])) for i, size in enumerate(shape) if size % parts == 0}
  return [
      move for move in collectives if move.kind == "all-gather" and (
          move.depth < move.name.count("while/body") or any(_dims(shape) in whole for shape in move.shapes))]


def _dims(shape: Sequence[int]) -> tuple[int, ...]:
  """Return a shape without axes of size 1, which XLA adds and removes freely."""
  return tuple(size for size in shape if size > 1)
