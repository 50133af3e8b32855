"""Masks as values: a query sees the first so many keys.

That covers all of NOVA: whole frames in causal order, padding, and a cache that is not full. It is one number a query,
not a matrix, so that a kernel can compute it.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Mask(Protocol):
  """What queries may see."""

  def num_visible(self, queries: Int[Array, "Q"]) -> Int[Array, "Q"]:
    """Return how many keys the queries at these positions see, the first ones of the sequence."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockCausal:
  """Frames see themselves and all before them; the prefix counts as part of frame 0.

  Attributes:
    prefix: condition tokens before the first frame.
    frame: tokens a frame.
  """

  prefix: int = dataclasses.field(metadata={"static": True})
  frame: int = dataclasses.field(metadata={"static": True})

  def num_visible(self, queries: Int[Array, "Q"]) -> Int[Array, "Q"]:
    frames = (queries - self.prefix) * (queries >= self.prefix) // self.frame  # For arrays of NumPy and of JAX.
    return self.prefix + (frames + 1) * self.frame


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ValidKeys:
  """All queries see the first `length` keys; the rest is padding or not written yet."""

  length: Int[Array, ""] | int

  def num_visible(self, queries: Int[Array, "Q"]) -> Int[Array, "Q"]:
    return jnp.full_like(queries, self.length)


def matrix(mask: Mask, queries: Int[Array, "Q"], num_keys: int) -> Bool[Array, "Q S"]:
  """Return a mask as a matrix: true where the query (row) sees the key (column)."""
  return jnp.arange(num_keys) < mask.num_visible(queries)[:, None]
