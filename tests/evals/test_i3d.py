"""I3D against pytorch-i3d's, with random weights; and FVD by its features.

`i3d.safetensors` holds what pytorch-i3d computed with the weights and the clip made here, frames scaled by PyTorch.
"""

from pathlib import Path

import numpy as np
import pytest
from evals.judges import close, random_weights
from safetensors.numpy import load_file, save_file

from nova_jax.evals import i3d
from nova_jax.evals.features import features_of, open_features
from nova_jax.media import write_mp4

REFERENCE = load_file(Path(__file__).parent / "i3d.safetensors")


@pytest.fixture(scope="module")
def weights():
  return random_weights(i3d.shapes(), np.random.default_rng(0))


@pytest.fixture(scope="module")
def function(weights, tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "i3d.safetensors"
  save_file(weights | {"Mixed_3b.b0.bn.num_batches_tracked": np.zeros((), np.int64)}, path)
  return open_features("i3d", path)


def test_features_equal_the_published_codes(function):
  # 18 frames are 9, 5 and 3 on the way, so that the middle of three counts twice in the end.
  clips = np.random.default_rng(1).integers(0, 256, (1, 18, 40, 56, 3)).astype(np.uint8)
  close(function(clips), REFERENCE["scaled"])


def test_a_folder_of_videos_has_a_feature_a_clip(function, tmp_path):
  rng = np.random.default_rng(2)
  for i in range(2):
    write_mp4(tmp_path / f"{i}.mp4", rng.integers(0, 256, (9, 32, 32, 3)).astype(np.uint8), 8, short_side=1)
  features, statistics = features_of(tmp_path, function)
  assert features.shape == (2, 400) and statistics.mean.shape == (400,)
  assert np.abs(features[0] - features[1]).max() > 0.1


def test_what_it_cannot_judge(function, weights):
  with pytest.raises(ValueError, match="at least 9 frames, got 8"):
    function(np.zeros((1, 8, 32, 32, 3), np.uint8))
  with pytest.raises(ValueError, match=r"expected I3D of 400 classes.*logits.conv3d.bias of shape \(600,\)"):
    i3d.convert(weights | {"logits.conv3d.bias": np.zeros(600, np.float32)})
