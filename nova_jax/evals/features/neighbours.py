"""Precision, recall and diversity of features.

Precision is the fraction of generated features in the manifold of the real ones, and recall the fraction of real
features in the manifold of the generated ones. The manifold of a set is the union of balls around its features that
extend to their k-th nearest neighbours ("Improved Precision and Recall Metric", Kynkäänniemi et al., 2019, section 2).
Diversity is the mean distance between pairs.
Invariant: all computation is in float64, in blocks of rows that bound memory.
"""

import numpy as np
from jaxtyping import Float

from nova_jax.utils.errors import UserError

NEIGHBOURS = 3
_ROWS = 1024

Points = Float[np.ndarray, "n D"]


def precision_recall(real: Points, generated: Points, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
  """Return precision and recall.

  Raises:
    UserError: dimensions differ, values are not finite, or there are too few features.
  """
  real, generated = _checked(real), _checked(generated)
  if real.shape[1] != generated.shape[1]:
    raise UserError(f"features have {real.shape[1]} and {generated.shape[1]} dimensions")
  for kind, points in (("real", real), ("generated", generated)):
    if len(points) <= neighbours:
      raise UserError(f"precision and recall need more than {neighbours} {kind} features, got {len(points)}")
  return _inside(generated, real, neighbours), _inside(real, generated, neighbours)


def diversity(features: Points) -> float:
  """Return the mean distance between two different features."""
  features = _checked(features)
  if len(features) < 2:
    raise UserError(f"diversity: expected at least 2 features, got {len(features)}")
  total = sum(np.sqrt(block).sum() for block in _blocks(features, features))
  return float(total / (len(features) * (len(features) - 1)))


def _inside(points: Points, manifold: Points, neighbours: int) -> float:
  """Return the fraction of points that are in the manifold."""
  # The nearest neighbour of a feature is the feature itself, at index 0.
  radii = np.concatenate([np.partition(block, neighbours, axis=1)[:, neighbours]
                          for block in _blocks(manifold, manifold)])
  return float(np.mean(np.concatenate([(block <= radii).any(1) for block in _blocks(points, manifold)])))


def _blocks(rows: Points, columns: Points):
  """Yield the squared distances of blocks of rows to all columns."""
  lengths = (columns**2).sum(1)
  for start in range(0, len(rows), _ROWS):
    part = rows[start : start + _ROWS]
    squares = np.maximum((part**2).sum(1)[:, None] + lengths - 2 * part @ columns.T, 0)
    if rows is columns:  # The distance of a feature to itself must not suffer from rounding.
      squares[np.arange(len(part)), start + np.arange(len(part))] = 0
    yield squares


def _checked(features: Points) -> Points:
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or not np.isfinite(features).all():
    raise UserError(f"features: expected finite numbers [n, D], got {list(features.shape)}")
  return features
