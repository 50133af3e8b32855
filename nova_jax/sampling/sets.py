"""The order in which a frame's tokens are written, and how sets of different size share compilations.

After step i of S, round(N·cos(π/2 · i/S)) tokens are still masked (paper, section 3.3; MaskGIT's cosine schedule), so
sets grow. TPUs want static shapes: neighbouring sets are grouped, and each group pads to its largest.
Invariant: one frame costs at most `MAX_GROUPS` compilations, whatever S is.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Int, Key

MAX_GROUPS = 4


@dataclasses.dataclass(frozen=True)
class TokenSet:
  """A run of `size` places in the order of tokens, and the padded shapes it is computed with."""

  start: int  # Tokens known before; the set takes order[start : start + size].
  size: int
  max_visible: int
  max_size: int


def set_sizes(num_tokens: int, num_sets: int) -> Int[np.ndarray, "S"]:
  """Return the sizes of the cosine schedule's sets, empty ones left out.

  Raises:
    ValueError: fewer than one set.
  """
  if num_sets < 1:
    raise ValueError(f"num_inference_steps: expected at least 1, got {num_sets}")
  masked = np.round(np.cos(0.5 * np.pi * np.arange(num_sets + 1) / num_sets) * num_tokens).astype(np.int64)
  sizes = masked[:-1] - masked[1:]
  return sizes[sizes > 0]


def token_sets(num_tokens: int, num_sets: int, num_known: int = 0) -> tuple[TokenSet, ...]:
  """Return the sets of a frame in order, each with the padded shapes of its group; `num_known` tokens need none."""
  sizes = set_sizes(num_tokens - num_known, num_sets)
  starts = num_known + np.cumsum(sizes) - sizes
  groups = np.arange(len(sizes)) * MAX_GROUPS // len(sizes)
  return tuple(
      TokenSet(int(start), int(size), int(starts[groups == group].max()), int(sizes[groups == group].max()))
      for start, size, group in zip(starts, sizes, groups))


def draw_order(keys: Key[Array, "B"], num_tokens: int) -> Int[Array, "B N"]:
  """Draw each sample's order of tokens, the same for all its frames."""
  return jax.vmap(lambda key: jax.random.permutation(key, num_tokens))(keys)
