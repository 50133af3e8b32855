"""How many image tokens are visible in a training step, drawn on the host.

  ratio ~ N(1, 0.25²) truncated to cfg.mask_ratio,   visible = round((1 − ratio)·N)      (paper, section 3.2; as MAR)

The count changes from step to step, shapes must not: tokens are padded to one of a few sizes, and the count itself is
passed as a traced number. What is padded to one size has more visible tokens than the next smaller one holds, and the
loss of these is not computed. Invariant: the count is a function of (seed, step) alone, so it survives a restart.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from nova_jax.utils.errors import UserError

MASK_RATIO = NormalDist(mu=1.0, sigma=0.25)
_MULTIPLE = 8  # Of tokens, in which TPUs hold them.


class VisibleRange(NamedTuple):
  """What a compiled step knows of the number of visible tokens of a frame.

  Attributes:
    least: a number that is surely visible, and needs no loss.
    most: size that visible tokens are padded to.
  """

  least: int
  most: int


def draw_num_visible(seed: int, step: int, num_tokens: int, bounds: tuple[float, float]) -> int:
  """Draw the number of visible tokens of a step.

  Args:
    seed: of the run.
    step: global step.
    num_tokens: N, image tokens of a frame.
    bounds: least and greatest share of masked tokens.
  """
  uniform = np.random.Generator(np.random.Philox(key=[seed, step])).random()
  low, high = (MASK_RATIO.cdf(bound) for bound in bounds)
  ratio = MASK_RATIO.inv_cdf(low + uniform * (high - low)) if low < high else bounds[0]
  return round((1 - min(max(ratio, bounds[0]), bounds[1])) * num_tokens)


def padded_sizes(num_tokens: int, bounds: tuple[float, float], num_sizes: int) -> tuple[int, ...]:
  """Return the static sizes that visible tokens are padded to, ascending; the last one fits every draw.

  Raises:
    UserError: bounds that are no interval within [0, 1], or fewer than one size.
  """
  if not 0 <= bounds[0] <= bounds[1] <= 1:
    raise UserError(f"train.mask_ratio: expected two ascending shares between 0 and 1, got {bounds}")
  if num_sizes < 1:
    raise UserError(f"train.visible_sizes: expected 1 or more, got {num_sizes}")
  largest = max(round((1 - bounds[0]) * num_tokens), 1)
  return tuple(sorted({-(-largest * i // num_sizes) for i in range(1, num_sizes + 1)}))


def visible_range(num_visible: int, num_tokens: int, bounds: tuple[float, float], num_sizes: int) -> VisibleRange:
  """Return the range of the padded size that a number of visible tokens takes; the arguments are as above."""
  sizes = padded_sizes(num_tokens, bounds, num_sizes)
  least = max((size + 1 for size in sizes if size < num_visible), default=round((1 - bounds[1]) * num_tokens))
  return VisibleRange(least // _MULTIPLE * _MULTIPLE, next(size for size in sizes if size >= num_visible))
