"""Fréchet distance between two sets of features, given their means and covariances:

  d² = |m₁ − m₂|² + tr(C₁) + tr(C₂) − 2 tr((C₁ C₂)^½)

The last trace is the sum of the singular values of R₁ᵀ R₂, where C = R Rᵀ with R from C's eigenvectors. This avoids
the root of C₁ C₂, which may be singular (fewer samples than features), and needs no multiple of the identity.
Invariant: all computation is in float64. Except for rounding, statistics do not depend on batches.
"""

import numpy as np
from jaxtyping import Float

from nova_jax.utils.errors import UserError


class FeatureStatistics:
  """Mean and covariance of features [D], updated in batches.

  Deviations are summed around the running mean (Chan, Golub and LeVeque), so a large mean loses no precision.
  """

  def __init__(self, dim: int):
    self.count = 0
    self.mean = np.zeros(dim)
    self._scatter = np.zeros((dim, dim))

  def add(self, features: Float[np.ndarray, "n D"]) -> None:
    """Add a batch of features.

    Raises:
      UserError: the batch has a wrong shape, or values that are not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or features.shape[1] != len(self.mean):
      raise UserError(f"features: expected [n, {len(self.mean)}], got {list(features.shape)}")
    if not np.isfinite(features).all():
      raise UserError("features: some are not finite")
    if not len(features):
      return
    mean = features.mean(0)
    deviations, shift, total = features - mean, mean - self.mean, self.count + len(features)
    self._scatter += deviations.T @ deviations + np.outer(shift, shift) * (self.count * len(features) / total)
    self.mean = self.mean + shift * (len(features) / total)
    self.count = total

  @property
  def covariance(self) -> Float[np.ndarray, "D D"]:
    """Unbiased covariance.

    Raises:
      UserError: there are fewer than two samples.
    """
    if self.count < 2:
      raise UserError(f"a covariance needs at least 2 samples, got {self.count}")
    return self._scatter / (self.count - 1)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
  """Return the squared Fréchet distance (FID, FVD)."""
  if first.mean.shape != second.mean.shape:
    raise UserError(f"features have {len(first.mean)} and {len(second.mean)} dimensions")
  return distance(first.mean, first.covariance, second.mean, second.covariance)


def distance(
    mean1: Float[np.ndarray, "D"], covariance1: Float[np.ndarray, "D D"],
    mean2: Float[np.ndarray, "D"], covariance2: Float[np.ndarray, "D D"],
) -> float:
  """Return the squared Fréchet distance of two normal distributions."""
  cross = np.linalg.svd(_root(covariance1).T @ _root(covariance2), compute_uv=False).sum()
  return float(((mean1 - mean2) ** 2).sum() + np.trace(covariance1) + np.trace(covariance2) - 2 * cross)


def _root(covariance: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
  """Return R with R Rᵀ = C. Negative eigenvalues, which come from rounding, count as zero."""
  values, vectors = np.linalg.eigh(covariance)
  return vectors * np.sqrt(np.maximum(values, 0))
