"""Splash attention: JAX's block-sparse flash attention kernel for TPU, with NOVA's masks computed inside it.

Blocks that a mask hides are skipped, forward and backward; nothing of the size queries × keys is ever stored. Lengths
are padded to whole blocks: padded keys are hidden, padded queries cut off.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as splash_lib
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask_lib
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from nova_jax.models.attention.masks import BlockCausal, Mask, ValidKeys
from nova_jax.models.layers import ATTENTION_RESIDUALS

_BLOCKS = (512, 384, 256, 128)  # Multiples of a TPU's 128 lanes; larger ones keep the matrix unit busier.

Kernel = splash_lib.splash_attention_kernel.SplashAttentionKernel


class _FirstKeys(mask_lib._ComputableMask):  # noqa: SLF001  The library has no public base for masks of one's own.
  """Each query sees the first so many keys: the kernel is given these numbers in place of positions."""

  def __init__(self, num_visible: Int[np.ndarray, "Q"], num_keys: int):
    super().__init__((len(num_visible), num_keys), lambda num_visible, keys: keys < num_visible)
    self.q_sequence = np.asarray(num_visible, np.int32)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _FirstKeys) and self._key == other._key

  def __hash__(self) -> int:
    return hash(self._key)

  @property
  def _key(self):
    return self.shape, self.q_sequence.tobytes()


def make_kernel(
    mask: Mask | None, queries: Int[np.ndarray, "C Q"], num_keys: int, num_heads: int, *, interpret: bool = False
) -> Kernel:
  """Make the kernel for one mask.

  Args:
    mask: which keys a query sees.
    queries: the positions of each device's queries; one row if they are not spread over devices.
    num_keys: S, of all devices.
    num_heads: of one device.
    interpret: run without a TPU, slowly.
  """
  if not _depends_on_place(mask):
    queries = queries[:1]
  num_devices, num_queries = queries.shape
  block_q, block_kv = _block(num_queries), _block(num_keys)
  queries = np.pad(queries, ((0, 0), (0, -num_queries % block_q)), mode="edge").reshape(-1)
  padded_keys = num_keys + -num_keys % block_kv
  if _depends_on_place(mask):
    head = _FirstKeys(mask.num_visible(queries), padded_keys)
  else:
    head = mask_lib.FullMask((len(queries), padded_keys))  # How many keys count is a matter of segments.
  sizes = splash_lib.BlockSizes(
      block_q=block_q, block_kv=block_kv, block_q_dkv=block_q, block_kv_dkv=block_kv, block_kv_dkv_compute=block_kv,
      block_q_dq=block_q, block_kv_dq=block_kv)
  return splash_lib.make_splash_mha(
      mask_lib.MultiHeadMask([head] * num_heads), block_sizes=sizes, head_shards=1, q_seq_shards=num_devices,
      interpret=interpret, residual_checkpoint_name=ATTENTION_RESIDUALS)


def kernel_spec(kernel: Kernel, mask: Mask | None, mesh: AbstractMesh, sequence: str | None) -> Kernel:
  """Return how a kernel's own arrays are spread when queries lie along the mesh axis `sequence`."""
  axis = sequence if _depends_on_place(mask) else None
  return kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, axis)))


def splash(
    kernel: Kernel, q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"],
    mask: Mask | None,
) -> Float[Array, "B Q H K"]:
  """Compute attention with a kernel that was made for this mask and these lengths."""
  num_queries, num_keys = q.shape[1], k.shape[1]
  block_q, block_kv = _block(num_queries), _block(num_keys)
  q = _heads_first(q * q.shape[-1] ** -0.5, block_q)
  k, v = _heads_first(k, block_kv), _heads_first(v, block_kv)
  segments = None
  if not _depends_on_place(mask):
    length = mask.length if isinstance(mask, ValidKeys) else num_keys
    segments = splash_lib.SegmentIds(
        q=jnp.ones(q.shape[2], jnp.int32), kv=(jnp.arange(k.shape[2]) < length).astype(jnp.int32))
  out = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)
  return jnp.swapaxes(out, 1, 2)[:, :num_queries]


def _depends_on_place(mask: Mask | None) -> bool:
  """Return whether queries see different keys; if not, all devices share one kernel."""
  return isinstance(mask, BlockCausal)


def _block(length: int) -> int:
  """Return the block size that pads `length` least; of equals, the largest."""
  return min(_BLOCKS, key=lambda block: (-length % block, -block))


def _heads_first(x: Float[Array, "B S H K"], block: int) -> Float[Array, "B H S K"]:
  x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)))
  return jnp.swapaxes(x, 1, 2)
