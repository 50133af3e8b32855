"""Fréchet distance, precision and recall against SciPy, closed forms and each other."""

import numpy as np
import pytest
import scipy.linalg

from nova_jax.evals.features import neighbours
from nova_jax.evals.features.frechet import FeatureStatistics, distance, frechet_distance
from nova_jax.evals.features.neighbours import diversity, precision_recall


def statistics(features, batch=7):
  result = FeatureStatistics(features.shape[1])
  for start in range(0, len(features), batch):
    result.add(features[start : start + batch])
  return result


def by_scipy(m1, c1, m2, c2):
  root = scipy.linalg.sqrtm(c1 @ c2)
  return ((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(root).real


def spread_spectrum(rng, dim, decades):
  """Return a covariance whose eigenvalues fall over so many decades."""
  basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
  return (basis * np.logspace(0, -decades, dim)) @ basis.T


@pytest.mark.parametrize("decades", [0, 6, 10, 14])
def test_equals_scipy(decades):
  rng = np.random.default_rng(decades)
  c1, c2 = (spread_spectrum(rng, 64, decades) for _ in range(2))
  m1, m2 = rng.normal(size=(2, 64)) * 0.1
  assert distance(m1, c1, m2, c2) == pytest.approx(by_scipy(m1, c1, m2, c2), rel=1e-6)


def test_fewer_samples_than_features():
  rng = np.random.default_rng(0)
  first, second = rng.normal(size=(2, 20, 64))
  ours = frechet_distance(statistics(first), statistics(second))
  # SciPy's root of a singular product is not defined; of one a little off, it is, and converges to ours.
  m1, m2, c1, c2 = first.mean(0), second.mean(0), np.cov(first.T), np.cov(second.T)
  errors = [abs(by_scipy(m1, c1 + e * np.eye(64), m2, c2 + e * np.eye(64)) - ours) / ours for e in (1e-6, 1e-9)]
  assert errors[1] < 1e-4 and errors[1] < errors[0] / 10
  assert abs(frechet_distance(statistics(first), statistics(first))) < 1e-9


def test_a_known_distance():
  c1, c2 = np.diag([4.0, 9.0]), np.diag([1.0, 16.0])
  assert distance(np.array([1.0, 0]), c1, np.array([0, 2.0]), c2) == pytest.approx(5 + 1 + 1)


def test_streaming_keeps_digits():
  features = np.random.default_rng(0).normal(size=(500, 5)) + 1e7
  streamed = statistics(features, 13)
  assert streamed.count == 500
  np.testing.assert_allclose(streamed.covariance, np.cov(features.T), rtol=1e-7, atol=1e-9)
  np.testing.assert_allclose(streamed.mean, features.mean(0), rtol=1e-14)
  with pytest.raises(ValueError, match="at least 2 samples"):
    _ = statistics(features[:1]).covariance
  with pytest.raises(ValueError, match="not finite"):
    streamed.add(np.full((1, 5), np.nan))
  with pytest.raises(ValueError, match=r"expected \[n, 5\]"):
    streamed.add(np.zeros((2, 4)))


def test_precision_and_recall():
  rng = np.random.default_rng(0)
  real = rng.normal(size=(1500, 4))
  same = rng.normal(size=(1500, 4))
  precision, recall = precision_recall(real, same)
  assert precision > 0.85 and recall > 0.85
  precision, recall = precision_recall(real, 0.1 * same)  # Good samples of one kind alone.
  assert precision > 0.98 and recall < 0.2
  assert precision_recall(real, same + 100) == (0, 0)
  assert precision_recall(real, real.copy()) == (1, 1)
  with pytest.raises(ValueError, match="need more than 3 generated features, got 3"):
    precision_recall(real, same[:3])


@pytest.mark.parametrize("rows", [1024, 2])
def test_a_small_case_by_hand(rows, monkeypatch):
  monkeypatch.setattr(neighbours, "_ROWS", rows)
  # Balls of real ones at 0, 1, 3 to their nearest: radius 1, 1, 2. Of generated ones at 2, 9, 9.5: 7, 0.5, 0.5.
  real, generated = np.array([[0.0], [1], [3]]), np.array([[2.0], [9], [9.5]])
  assert precision_recall(real, generated, neighbours=1) == (1 / 3, 1.0)
  # By default balls reach to the third nearest, and hold what lies on their edge: from 6 to 12.
  assert precision_recall(np.array([[0.0], [1], [3], [6]]), np.array([[12.0], [12.1], [7], [-5]]))[0] == 0.75
  assert diversity(real) == pytest.approx((1 + 3 + 2) / 3)
