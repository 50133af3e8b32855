"""I3D against pytorch-i3d's, with random weights; and FVD by its features.

`i3d.safetensors` holds what pytorch-i3d computed with the weights and the clips made here: the mean over time of what
`InceptionI3d(400).eval()` makes of 2 x − 1, where `interpolate(clip / 255, (224, 224), mode="bilinear")` scaled x.
"""

from pathlib import Path

import numpy as np
import pytest
from evals.judges import close, random_weights
from safetensors.numpy import load_file, save_file

from nova_jax.evals.features import i3d
from nova_jax.evals.features.extract import compute_features, find, open_features
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


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [
    ("small", (18, 40, 56)),  # 18 frames are 9, 5 and 3 on the way: the middle of three counts twice in the end.
    ("large", (9, 270, 320))])
def test_features_equal_the_published_codes(function, name, size):
  clips = np.random.default_rng(1).integers(0, 256, (1, *size, 3)).astype(np.uint8)
  close(function(clips), REFERENCE[name])


def test_a_folder_of_videos_has_a_feature_a_clip(function, tmp_path):
  rng = np.random.default_rng(2)
  for i in range(2):
    frames = rng.integers(0, 256, (9, 270, 320, 3)).astype(np.uint8)  # Of a size that is compiled already.
    write_mp4(tmp_path / f"{i}.mp4", frames, 8, short_side=1)
  found = compute_features(find(tmp_path), function, "clips")
  assert found.features.shape == (2, 400) and found.statistics.mean.shape == (400,) and found.clip_frames == 9
  assert np.abs(found.features[0] - found.features[1]).max() > 0.1
  write_mp4(tmp_path / "0.mp4", np.zeros((8, 32, 32, 3), np.uint8), 8, short_side=1)
  with pytest.raises(ValueError, match="0.mp4: I3D needs clips of at least 9 frames, got 8"):
    compute_features(find(tmp_path), function, "clips")


def test_weights_of_other_classes(weights):
  with pytest.raises(ValueError, match=r"expected I3D of 400 classes.*logits.conv3d.bias of shape \(600,\)"):
    i3d.convert(weights | {"logits.conv3d.bias": np.zeros(600, np.float32)})
