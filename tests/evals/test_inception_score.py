"""Inception Score against entropies, in parts as the published code takes them, and from which weights it comes."""

import numpy as np
import pytest
from evals.judges import random_weights
from safetensors.numpy import save_file
from scipy.stats import entropy

from nova_jax.cli import score
from nova_jax.evals.features import inception
from nova_jax.evals.features.inception import Inception
from nova_jax.evals.features.inception_score import inception_score


def by_entropies(logits):
  """Mutual information of picture and class, as the entropy of all minus the mean entropy of each."""
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  return np.exp(entropy(probabilities.mean(0)) - entropy(probabilities, axis=1).mean())


def test_parts_of_five_thousand_and_a_shorter_last_one():
  logits = 3 * np.random.default_rng(0).standard_normal((12_000, 7)).astype(np.float32)
  parts = [by_entropies(logits[start : start + 5000].astype(np.float64)) for start in (0, 5000, 10_000)]
  assert inception_score(logits) == pytest.approx((np.mean(parts), np.std(parts)), rel=1e-12)
  assert inception_score(logits, part=12_000)[1] == 0


def test_the_extremes():
  certain = 1000 * np.eye(10, dtype=np.float32)[np.arange(100) % 10]
  assert inception_score(certain) == pytest.approx((10, 0))
  assert inception_score(certain[:1].repeat(50, 0)) == pytest.approx((1, 0)), "one class alone"
  assert inception_score(np.zeros((50, 10))) == pytest.approx((1, 0)), "never sure"
  for logits in (np.zeros((0, 10)), np.full((2, 3), np.nan), np.zeros(3)):
    with pytest.raises(ValueError, match="expected finite logits"):
      inception_score(logits)


def test_it_comes_with_the_classifier_of_the_weights_without_its_bias(tmp_path):
  rng = np.random.default_rng(0)
  weights = random_weights(inception.shapes(), rng)
  classifier = rng.standard_normal((9, 2048)).astype(np.float32)
  save_file(weights | {"fc.weight": classifier, "fc.bias": np.full(9, 5, np.float32)}, tmp_path / "a.safetensors")
  features = rng.standard_normal((40, 2048)) / 20
  network = Inception.load(tmp_path / "a.safetensors")
  np.testing.assert_allclose(network.logits(features), features @ classifier.T.astype(float), rtol=1e-6)
  found = score._inception(network, np.concatenate([features, features[::-1]]))
  assert found["inception_score"] == pytest.approx(by_entropies(features @ classifier.T.astype(float)), rel=1e-6)
  save_file(weights, tmp_path / "b.safetensors")
  assert score._inception(Inception.load(tmp_path / "b.safetensors"), features) == {}
