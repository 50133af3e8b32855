"""cuDNN's flash attention, for NVIDIA GPUs: scores are never stored, and hidden ones of whole frames not computed.

NOVA's masks are told without a matrix. Queries that see the same keys, those of a frame, are one call without a mask;
a length that is known only when the program runs is cuDNN's own length of keys.
Invariant: where cuDNN can't, XLA computes the same formula; so it does for forward mode and second derivatives.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nova_jax.models.attention.masks import Mask
from nova_jax.utils.derivatives import by_kernel

_DTYPES = ("bfloat16", "float16")
_LARGEST_HEAD = 128  # Channels of a head before Hopper.
_CAPABILITY = 8.0  # Of Ampere, the first whose flash attention cuDNN has.


def fits(q: Float[Array, "B Q H K"], platform: str) -> bool:
  """Return whether cuDNN computes attention for these queries, on the GPU that is here; without one, on recent ones."""
  if platform not in ("gpu", "cuda") or q.dtype not in _DTYPES or q.shape[-1] % 8 or q.shape[-1] > _LARGEST_HEAD:
    return False
  capability = getattr(jax.local_devices()[0], "compute_capability", None)
  try:
    return capability is None or float(capability) >= _CAPABILITY
  except ValueError:  # AMD's are names.
    return False


def flash(
    q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"], mask: Mask | None = None, *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B Q H K"]:
  """Compute attention; the arguments are those of `attention`, and who computes."""

  def run(q, k, v, lengths=None):
    return by_kernel(functools.partial(_run, implementation), functools.partial(_run, "xla"), lengths, (q, k, v))

  if mask is None:
    return run(q, k, v)
  if jax.tree.leaves(mask):  # The length is known only when the program runs.
    visible = mask.num_visible(jnp.zeros(len(q), jnp.int32))
    return run(q, k, v, jnp.minimum(visible, k.shape[1]).astype(jnp.int32))
  visible = np.minimum(mask.num_visible(np.arange(q.shape[1])), k.shape[1])
  starts = np.flatnonzero(np.diff(visible, prepend=-1))
  ends = np.append(starts[1:], q.shape[1])
  frames = [run(q[:, start:end], k[:, : visible[start]], v[:, : visible[start]])
            for start, end in zip(starts, ends, strict=True)]
  return jnp.concatenate(frames, axis=1)


def _run(implementation, lengths, qkv):
  return jax.nn.dot_product_attention(*qkv, key_value_seq_lengths=lengths, implementation=implementation)
