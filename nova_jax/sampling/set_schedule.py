"""The order in which a frame's tokens are written, and how sets of different size share compilations.

After step i of S, round(N·cos(π/2 · i/S)) tokens are still masked (paper, section 3.3; MaskGIT's cosine schedule), so
sets grow. Other schedules and orders have names. TPUs want static shapes: neighbouring sets are grouped, and each group
pads to its largest; a batch of few tokens is one group, whose padding costs less than a program more.
Invariant: the sets of one frame have at most `MAX_GROUPS` shapes, whatever S is.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nova_jax.utils.arrays import AnyArray
from nova_jax.utils.errors import UserError

MAX_GROUPS = 8  # At 16 sets of 256 tokens, padding is 2.6 % of the operations; with four groups it is 8 %.
FEW_GROUPS = 4
FEW_TOKENS = 64  # Tokens of all frames of a batch up to which padding costs less than compiling.
ORDERS = ("random", "halton", "checkerboard", "still_first")
SCHEDULES = ("cosine", "constant", "two_stage")


@dataclasses.dataclass(frozen=True)
class TokenSet:
  """A run of `size` places in the order of tokens, and the padded shapes it is computed with."""

  start: int  # Tokens known before; the set takes order[start : start + size].
  size: int
  max_visible: int
  max_size: int
  phase: float  # How far its group is through the frame, from 0 for the first one to 1 for the last of several.


def set_sizes(num_tokens: int, num_sets: int, schedule: str = "cosine") -> Int[np.ndarray, "S"]:
  """Return the sizes of a schedule's sets, empty ones left out.

  Args:
    num_tokens: number of tokens to write.
    num_sets: number of sets asked for.
    schedule: name of the schedule: "cosine"; "constant", equal sizes; or "two_stage", the first half of the tokens
      (the skeleton of a checkerboard) by the cosine schedule, and the other half in the last eighth of the sets, at
      least one, equally.

  Raises:
    UserError: fewer than one set.
  """
  if num_sets < 1:
    raise UserError(f"num_inference_steps: expected at least 1, got {num_sets}")
  if schedule == "two_stage" and (first := num_sets - _second_stage(num_sets)):
    skeleton = (num_tokens + 1) // 2
    return np.concatenate([
        set_sizes(skeleton, first), set_sizes(num_tokens - skeleton, num_sets - first, "constant")])
  if schedule == "cosine":
    masked = np.round(np.cos(0.5 * np.pi * np.arange(num_sets + 1) / num_sets) * num_tokens).astype(np.int64)
  else:
    masked = num_tokens - np.arange(num_sets + 1) * num_tokens // num_sets
  sizes = masked[:-1] - masked[1:]
  return sizes[sizes > 0]


def _second_stage(num_sets: int) -> int:
  """Return how many of the sets of the schedule "two_stage" write its second half."""
  return max(1, num_sets // 8)


def token_sets(
    num_tokens: int, num_sets: int, num_known: int = 0, schedule: str = "cosine", max_groups: int = MAX_GROUPS,
) -> tuple[TokenSet, ...]:
  """Return the sets of a frame in order, each with the padded shapes of its group.

  Args:
    num_tokens: number of tokens of the frame.
    num_sets: number of sets asked for.
    num_known: number of tokens that need no set.
    schedule: name of the schedule.
    max_groups: number of groups that many sets make; fewer make one of every two, and up to `FEW_GROUPS` one each.
  """
  sizes = set_sizes(num_tokens - num_known, num_sets, schedule)
  starts = num_known + np.cumsum(sizes) - sizes
  number = min(max(len(sizes) // 2, FEW_GROUPS), max_groups, len(sizes))
  groups = np.arange(len(sizes)) * number // max(len(sizes), 1)
  if schedule == "two_stage" and num_sets > 1:  # The second stage's sets are of another size: a group of their own.
    first = len(sizes) - np.count_nonzero(starts - num_known >= (num_tokens - num_known + 1) // 2)
    groups = np.where(np.arange(len(sizes)) < first, np.arange(len(sizes)) * (number - 1) // first, number - 1)
  return tuple(
      TokenSet(
          int(start), int(size), int(starts[groups == group].max()), int(sizes[groups == group].max()),
          int(group) / max(number - 1, 1))
      for start, size, group in zip(starts, sizes, groups, strict=True))


def share_shapes(sets: Sequence[TokenSet]) -> tuple[TokenSet, ...]:
  """Return sets that all pad to the largest of them, so that one program writes them."""
  most = {name: max((getattr(each, name) for each in sets), default=0) for name in ("max_visible", "max_size")}
  return tuple(dataclasses.replace(each, **most) for each in sets)


def draw_order(keys: Key[Array, "B"], num_tokens: int) -> Int[Array, "B N"]:
  """Draw each sample's random order of tokens, the same for all its frames."""
  return jax.vmap(lambda key: jax.random.permutation(key, num_tokens))(keys)


def make_order(name: str, keys: Key[Array, "B"], grid: tuple[int, int]) -> Int[Array, "B N"]:
  """Return each sample's order of the tokens of a grid of rows and columns.

  Args:
    name: name of the order: "random"; "halton", along a sequence that spreads evenly, the same for all samples;
      "checkerboard", the tokens whose row and column add up to an even number first, and within both halves at random;
      or "still_first", which is random until there are two frames for `still_first`.
    keys: one key for each sample.
    grid: rows and columns of the frame's tokens.
  """
  rows, columns = grid
  if name == "halton":
    return jnp.broadcast_to(jnp.asarray(halton_order(grid)), (len(keys), rows * columns))
  order = draw_order(keys, rows * columns)
  if name in ("random", "still_first"):
    return order
  late = (order // columns + order % columns) % 2
  return jnp.take_along_axis(order, jnp.argsort(late, axis=-1, stable=True), axis=-1)


@jax.jit
def still_first(
    order: Int[Array, "B N"], before: Float[AnyArray, "B N P"], last: Float[AnyArray, "B N P"],
) -> Int[Array, "B N"]:
  """Sort an order by how much each token changed from one frame to the next, the stillest first.

  Args:
    order: order that tokens keep among those that changed alike.
    before, last: patch values of the two frames before.
  """
  change = jnp.square(jnp.asarray(last) - jnp.asarray(before)).sum(-1)
  places = jnp.argsort(jnp.take_along_axis(change, order, axis=-1), axis=-1, stable=True)
  return jnp.take_along_axis(order, places, axis=-1)


@functools.cache
def halton_order(grid: tuple[int, int]) -> tuple[int, ...]:
  """Return the tokens of a grid in the order in which the points of Halton's sequence in bases 2 and 3 first hit them.

  As in Besnier et al. 2025 (arXiv 2503.17076): whatever part of it is taken, its tokens are spread over the frame.
  """
  rows, columns = grid
  found, index = {}, 0
  while len(found) < rows * columns:
    index += 1
    found.setdefault(int(_inverse(index, 2) * rows) * columns + int(_inverse(index, 3) * columns))
  return tuple(found)


def _inverse(index: int, base: int) -> float:
  """Return the radical inverse: the digits of a number in a base, mirrored at the point."""
  value, digit = 0.0, 1 / base
  while index:
    index, rest = divmod(index, base)
    value, digit = value + rest * digit, digit / base
  return value
