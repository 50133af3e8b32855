"""Attention masks as prefix lengths: query i attends to the keys 0 … num_visible(i) − 1.

This covers all that NOVA needs: whole frames in causal order, padding, and a partly filled cache. A kernel can compute
the number per query itself, where it would have to load a matrix.
"""

import dataclasses
import typing
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Int

from nova_jax.utils.arrays import AnyArray


class Mask(Protocol):
  """A mask that lets each query attend to the first keys of the sequence."""

  def num_visible(self, queries: Int[AnyArray, "..."]) -> Int[AnyArray, "..."]:
    """Return how many keys each query attends to, given the positions of the queries."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockCausal:
  """Each frame attends to itself and to all earlier frames; the prefix counts as part of frame 0.

  Attributes:
    prefix: number of condition tokens before the first frame.
    frame: number of tokens per frame.
  """

  prefix: int = dataclasses.field(metadata={"static": True})
  frame: int = dataclasses.field(metadata={"static": True})

  def num_visible(self, queries: Int[AnyArray, "..."]) -> Int[AnyArray, "..."]:
    frames = (queries - self.prefix) * (queries >= self.prefix) // self.frame  # Works for NumPy and JAX arrays.
    return self.prefix + (frames + 1) * self.frame


@typing.no_type_check  # JAX puts tangents and other objects in the place of a pytree's arrays.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ValidKeys:
  """All queries attend to the first `length` keys; the others are padding or not written yet."""

  length: Int[ArrayLike, ""]

  def num_visible(self, queries: Int[AnyArray, "..."]) -> Int[AnyArray, "..."]:
    return jnp.full_like(queries, self.length)


def to_matrix(mask: Mask, queries: Int[AnyArray, "Q"], num_keys: int) -> Bool[Array, "Q S"]:
  """Return a mask as a matrix, true where the query (row) attends to the key (column)."""
  return jnp.arange(num_keys) < mask.num_visible(queries)[:, None]
