"""Context parallelism: how the tokens of a sequence are dealt out to the devices of the mesh axis `context`.

A sequence is cut into chunks, one a device. Under a causal mask later tokens see more, so it is cut into twice as many,
and device i gets chunks i and 2·C − 1 − i (C devices): every device then sees the same number of pairs, up to a chunk.
Attention gathers keys and values, queries stay where they are; everything else works token by token.
Invariant: padding goes to the sequence's end, where masks hide it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nova_jax.parallel.sharding import CONTEXT, constrain, current_mesh


@dataclasses.dataclass(frozen=True)
class Layout:
  """A sequence spread over devices.

  Attributes:
    length: tokens of the sequence.
    num_devices: C.
    balanced: whether each device takes a chunk from both ends.
  """

  length: int
  num_devices: int
  balanced: bool

  @classmethod
  def current(cls, length: int, balanced: bool) -> "Layout | None":
    """Return the layout on the mesh that is set, or None if it has one device for a sequence."""
    mesh = current_mesh()
    num_devices = 1 if mesh is None else mesh.shape[CONTEXT]
    return None if num_devices == 1 else cls(length, num_devices, balanced)

  @property
  def num_chunks(self) -> int:
    return self.num_devices * (2 if self.balanced else 1)

  @property
  def padded(self) -> int:
    """Tokens with padding."""
    return -(-self.length // self.num_chunks) * self.num_chunks

  def positions(self) -> Int[np.ndarray, "C S/C"]:
    """Return the position in the sequence of each device's tokens."""
    chunks = np.arange(self.padded, dtype=np.int32).reshape(self.num_chunks, -1)
    if self.balanced:
      chunks = np.stack([chunks[: self.num_devices], chunks[::-1][: self.num_devices]], axis=1)
    return chunks.reshape(self.num_devices, -1)

  def spread(self, x: Array, axis: int = 1) -> Array:
    """Pad and reorder tokens, so that equal parts of `axis` belong to the devices in turn."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, self.padded - self.length)
    x = jnp.pad(x, pad)
    return jnp.take(x, self.positions().reshape(-1), axis=axis) if self.balanced else x

  def collect(self, x: Array, axis: int = 1) -> Array:
    """Undo `spread`."""
    x = self.in_order(x, axis) if self.balanced else x
    return jax.lax.slice_in_dim(x, 0, self.length, axis=axis)

  def gather(self, x: Array) -> Array:
    """Within `shard_map`: return all tokens of [B, S/C, …], in the order of the sequence."""
    x = jax.lax.all_gather(x, CONTEXT, axis=1, tiled=True)
    return self.in_order(x, 1) if self.balanced else x

  def in_order(self, x: Array, axis: int) -> Array:
    """Put the chunks of all devices back into the order of the sequence."""
    chunks = jnp.split(x, self.num_chunks, axis)
    return jnp.concatenate(chunks[0::2] + chunks[1::2][::-1], axis)


def sharded(x: Array) -> Array:
  """Spread activations [B, S, D] over the mesh as all blocks expect them."""
  return constrain(x, "batch", "sequence", None)
