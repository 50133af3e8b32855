"""LPIPS against a plain implementation in PyTorch, with random weights and photographs; and what its converter refuses.

`EXPECTED` holds what torch 2 computed with `conv2d`, `max_pool2d` and `relu` alone from the weights and frames here.
"""

import numpy as np
import pytest
import skimage.data
from evals.judges import random_weights
from safetensors.numpy import save_file

from nova_jax.evals.features import lpips
from nova_jax.evals.features.lpips import LPIPS

EXPECTED = {"AlexNet": [0.0761987120, 0.0695681646], "VGG-16": [0.0652694702, 0.0514197424]}


def inputs(network):
  """Weights by published names, and two pairs of frames."""
  rng = np.random.default_rng(0)
  weights = random_weights(lpips.shapes(network), rng)
  weights = {name: np.abs(value) if name.startswith("lin") else value for name, value in weights.items()}
  real = np.stack([skimage.data.astronaut()[:70, 150:246], skimage.data.coffee()[100:170, 200:296]])
  made = (real * 0.8 + rng.normal(0, 12, real.shape)).clip(0, 255).astype(np.uint8)
  return weights, real, made


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=pytest.mark.slow if "VGG" in name else ()) for name in lpips.NETWORKS])
def test_distances_equal_those_of_torch(network, tmp_path):
  weights, real, made = inputs(network)
  trunk = {name: value for name, value in weights.items() if name.startswith("features")}
  save_file(trunk | {"classifier.6.bias": np.zeros(9, np.float32)}, tmp_path / "trunk.safetensors")
  save_file({name: weights[name] for name in weights.keys() - trunk}, tmp_path / "channels.safetensors")
  score = LPIPS.load_parts([tmp_path / "trunk.safetensors", tmp_path / "channels.safetensors"])
  found = score(real, made)
  np.testing.assert_allclose(found, EXPECTED[network], atol=1e-6)
  np.testing.assert_allclose(score(real[:1], made[:1]), found[:1], atol=1e-7)
  assert score(real, real).tolist() == [0, 0]


def test_weights_that_do_not_fit(tmp_path):
  weights, real, made = inputs("AlexNet")
  lacking = {name: value for name, value in weights.items() if name != "lin4.model.1.weight"}
  with pytest.raises(ValueError, match="expected AlexNet and LPIPS's .*: lin4.model.1.weight missing"):
    lpips.convert(lacking)
  with pytest.raises(ValueError, match="is not a file; expected weights of AlexNet or VGG-16"):
    LPIPS.load_parts([tmp_path / "none"])
  with pytest.raises(ValueError, match="expected as many of one size"):
    LPIPS(*lpips.convert(weights))(real, made[:1])
