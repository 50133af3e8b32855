"""Splash attention: JAX's block-sparse flash attention kernel for TPU, with NOVA's masks computed inside it.

Blocks that a mask hides are skipped in the forward and backward pass, and no array of size queries × keys is stored.
Lengths are padded to whole blocks: padded keys are masked, padded queries are cut off. One kernel computes all three
gradients; each block of keys gives its part of the queries' gradient, and the parts are added up.

The kernel knows its gradient, but neither forward mode nor derivatives of the gradient. These come from the formula,
with the scores of all pairs of queries and keys in memory.
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
from nova_jax.utils.arrays import AnyArray
from nova_jax.utils.derivatives import by_kernel

_BLOCKS = (512, 384, 256, 128)  # Multiples of a TPU's 128 lanes; larger blocks use the matrix unit better.
_MOST_KEYS = 2048  # Keys that fit in the chip's fast memory at once, with their gradients.

Kernel = splash_lib.splash_attention_kernel.SplashAttentionKernel


class _FirstKeys(mask_lib._ComputableMask):  # noqa: SLF001  The library has no public base class for custom masks.
  """A prefix-length mask. The kernel receives these lengths in place of the positions of the queries."""

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
  """Create the kernel for one mask.

  Args:
    mask: mask of the keys that each query attends to.
    queries: positions of each device's queries; one row if they are not sharded.
    num_keys: number of keys S on all devices together.
    num_heads: number of heads on one device.
    interpret: emulation without a TPU, which is slow.
  """
  if not _depends_on_position(mask):
    queries = queries[:1]
  num_devices, num_queries = queries.shape
  block_q, block_kv = _block(num_queries), _block(num_keys)
  loaded = _loaded_keys(num_keys, mask)
  queries = np.pad(queries, ((0, 0), (0, -num_queries % block_q)), mode="edge").reshape(-1)
  padded_keys = num_keys + -num_keys % block_kv
  if isinstance(mask, BlockCausal):
    head = _FirstKeys(np.asarray(mask.num_visible(queries)), padded_keys)
  else:
    head = mask_lib.FullMask((len(queries), padded_keys))  # The number of valid keys is expressed by segments.
  sizes = splash_lib.BlockSizes(
      block_q=block_q, block_kv=loaded, block_kv_compute=block_kv, block_q_dkv=block_q, block_kv_dkv=loaded,
      block_kv_dkv_compute=block_kv, use_fused_bwd_kernel=True)
  return splash_lib.make_splash_mha(
      mask_lib.MultiHeadMask([head] * num_heads), block_sizes=sizes, head_shards=1, q_seq_shards=num_devices,
      interpret=interpret, residual_checkpoint_name=ATTENTION_RESIDUALS)


def kernel_spec(kernel: Kernel, mask: Mask | None, mesh: AbstractMesh, sequence: str | None) -> Kernel:
  """Return how the kernel's own arrays are sharded when queries are sharded over the mesh axis `sequence`."""
  axis = sequence if _depends_on_position(mask) else None
  return kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, axis)))


def splash(
    kernel: Kernel, q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"],
    mask: Mask | None, queries: Int[AnyArray, "Q"],
) -> Float[Array, "B Q H K"]:
  """Compute attention with a kernel created for this mask, these lengths and these positions of the queries."""
  num_queries, num_keys = q.shape[1], k.shape[1]
  block_q, block_kv = _block(num_queries), _block(num_keys)
  q = _heads_first(q * q.shape[-1] ** -0.5, block_q)
  k, v = _heads_first(k, block_kv), _heads_first(v, block_kv)
  segments, padded_queries = None, jnp.pad(queries, (0, q.shape[2] - num_queries), mode="edge")
  if isinstance(mask, BlockCausal):
    num_visible = mask.num_visible(padded_queries)
  else:
    length = mask.length if isinstance(mask, ValidKeys) else num_keys
    segments = splash_lib.SegmentIds(
        q=jnp.ones(q.shape[2], jnp.int32), kv=(jnp.arange(k.shape[2]) < length).astype(jnp.int32))
    num_visible = jnp.full_like(padded_queries, length)
  out = by_kernel(_run, _formula, (kernel, segments, num_visible), (q, k, v))
  return jnp.swapaxes(out, 1, 2)[:, :num_queries]


def _run(context, qkv):
  """Run the kernel, which knows by its own masks how many keys each query attends to."""
  kernel, segments, _ = context
  return jax.vmap(kernel, in_axes=(0, 0, 0, None))(*qkv, segments)


def _formula(context, qkv):
  """Compute the same from the scores of all pairs."""
  (_, _, num_visible), (q, k, v) = context, qkv
  scores = jnp.einsum("bhqk,bhsk->bhqs", q, k, preferred_element_type=jnp.float32)
  scores = jnp.where(jnp.arange(k.shape[2]) < num_visible[:, None], scores, -jnp.inf)
  return jnp.einsum("bhqs,bhsk->bhqk", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def _depends_on_position(mask: Mask | None) -> bool:
  """Return whether different queries attend to different keys; if not, all devices share one kernel."""
  return isinstance(mask, BlockCausal)


def _block(length: int) -> int:
  """Return the block size that adds the least padding to `length`; the largest of several such sizes."""
  return min(_BLOCKS, key=lambda block: (-length % block, -block))


def _loaded_keys(num_keys: int, mask: Mask | None) -> int:
  """Return the number of keys that a kernel loads at once: several blocks where no mask may hide one of them."""
  block = _block(num_keys)
  num_blocks = -(-num_keys // block)
  if _depends_on_position(mask):
    return block
  return max(block * num for num in range(1, num_blocks + 1) if num_blocks % num == 0 and block * num <= _MOST_KEYS)


def _heads_first(x: Float[Array, "B S H K"], block: int) -> Float[Array, "B H padded K"]:
  x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)))
  return jnp.swapaxes(x, 1, 2)
