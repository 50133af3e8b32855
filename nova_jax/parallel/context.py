"""Context parallelism: shards the tokens of a sequence over the C devices of the mesh axis `context`.

A sequence is cut into C chunks, one per device. Under a causal mask later tokens attend to more keys, so the sequence
is cut into 2·C chunks and device i gets chunks i and 2·C − 1 − i. Every device then computes about the same number of
query-key pairs. Attention gathers keys and values and leaves queries in place; all other layers work token by token.
Invariant: padding goes to the end of the sequence, where masks hide it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nova_jax.parallel.sharding import CONTEXT, constrain, current_mesh


@dataclasses.dataclass(frozen=True)
class SequenceSharding:
  """How the tokens of a sequence are sharded over devices.

  Attributes:
    length: number of tokens in the sequence, without padding.
    num_devices: number of devices C.
    balanced: whether each device gets a chunk from both ends.
  """

  length: int
  num_devices: int
  balanced: bool

  @classmethod
  def current(cls, length: int, balanced: bool) -> "SequenceSharding | None":
    """Return the sharding on the current mesh; None if sequences are not sharded."""
    mesh = current_mesh()
    num_devices = 1 if mesh is None else mesh.shape[CONTEXT]
    return None if num_devices == 1 else cls(length, num_devices, balanced)

  @property
  def num_chunks(self) -> int:
    return self.num_devices * (2 if self.balanced else 1)

  @property
  def padded_length(self) -> int:
    """Number of tokens including padding."""
    return -(-self.length // self.num_chunks) * self.num_chunks

  def positions(self) -> Int[np.ndarray, "C Q"]:
    """Return the positions in the sequence of each device's tokens."""
    chunks = np.arange(self.padded_length, dtype=np.int32).reshape(self.num_chunks, -1)
    if self.balanced:
      chunks = np.stack([chunks[: self.num_devices], chunks[::-1][: self.num_devices]], axis=1)
    return chunks.reshape(self.num_devices, -1)

  def shard(self, x: Array, axis: int = 1) -> Array:
    """Pad and reorder tokens so that `axis` splits into equal parts, one per device in order."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, self.padded_length - self.length)
    x = jnp.pad(x, pad)
    return jnp.take(x, self.positions().reshape(-1), axis=axis) if self.balanced else x

  def unshard(self, x: Array, axis: int = 1) -> Array:
    """Undo `shard`."""
    x = self._restore_order(x, axis) if self.balanced else x
    return jax.lax.slice_in_dim(x, 0, self.length, axis=axis)

  def all_gather(self, x: Array) -> Array:
    """Gather the tokens of all devices, [B, S/C, …] → [B, S, …], in order. Call it within `shard_map`."""
    x = jax.lax.all_gather(x, CONTEXT, axis=1, tiled=True)
    return self._restore_order(x, 1) if self.balanced else x

  def _restore_order(self, x: Array, axis: int) -> Array:
    """Put the chunks of all devices back into sequence order."""
    chunks = jnp.split(x, self.num_chunks, axis)
    return jnp.concatenate(chunks[0::2] + chunks[1::2][::-1], axis)


def shard_activations(x: Array) -> Array:
  """Shard activations [B, S, D] over the mesh as all blocks expect them."""
  return constrain(x, "batch", "sequence", None)
