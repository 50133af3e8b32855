"""InceptionV3 against pytorch-fid's, with random weights; and what its converter refuses.

`inception.safetensors` holds what pytorch-fid 0.3.0 computed with the weights and pictures made here.
"""

from pathlib import Path

import av
import numpy as np
import pytest
from evals.judges import close, random_weights
from PIL import Image
from safetensors.numpy import load_file, save_file

from nova_jax.evals.features import inception
from nova_jax.evals.features.extract import VIDEOS, compute_features, find, open_features, passed_over, read_clip
from nova_jax.evals.features.inception import Inception
from nova_jax.media import write_mp4

REFERENCE = load_file(Path(__file__).parent / "inception.safetensors")


@pytest.fixture(scope="module")
def inputs():
  """Weights by published names, and two pictures."""
  rng = np.random.default_rng(0)
  weights = random_weights(inception.shapes(), rng)
  return weights, rng.uniform(0, 1, (2, 80, 96, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def file(inputs, tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
  save_file(inputs[0] | {"fc.bias": np.zeros(8, np.float32)}, path)
  return path


def test_features_equal_the_published_codes(inputs):
  weights, small = inputs
  close(inception.features(inception.convert(weights), 2 * small - 1), REFERENCE["small"])


def test_pictures_are_scaled_as_the_published_code_does(file):
  pictures = np.random.default_rng(1).integers(0, 256, (1, 40, 56, 3)).astype(np.uint8)
  close(Inception.load(file)(pictures[:, None]), REFERENCE["scaled"])


def test_weights_that_do_not_fit(inputs, tmp_path):
  weights = dict(inputs[0])
  kernel = weights.pop("Mixed_5b.branch1x1.conv.weight")
  with pytest.raises(ValueError, match="1 weights don't fit: Mixed_5b.branch1x1.conv.weight missing"):
    inception.convert(weights)
  with pytest.raises(ValueError, match=r"of shape \(64, 192, 1\), expected \(64, 192, 1, 1\)"):
    inception.convert(weights | {"Mixed_5b.branch1x1.conv.weight": kernel[..., 0]})
  with pytest.raises(ValueError, match="unknown: other"):
    inception.convert(inputs[0] | {"other": kernel})
  (tmp_path / "a.safetensors").write_bytes(b"none")
  with pytest.raises(ValueError, match="is not a readable safetensors file"):
    Inception.load(tmp_path / "a.safetensors")
  for path in (tmp_path, tmp_path / "b.safetensors"):
    with pytest.raises(ValueError, match="is not a file; expected weights of InceptionV3"):
      Inception.load(path)


def test_a_function_that_the_user_brings(tmp_path):
  for i in range(3):
    Image.new("RGB", (4, 4), (i, 10 * i, 0)).save(tmp_path / f"{i}.png")
  function = open_features("evals.judges:Mean", "2")
  found = compute_features(find(tmp_path), function, "made")
  assert found.features.tolist() == [[0, 0, 0], [2, 20, 0], [4, 40, 0]]
  assert found.statistics.mean.tolist() == [2, 20, 0] and found.clip_frames is None
  write_mp4(tmp_path / "v.mp4", np.full((5, 16, 16, 3), 128, np.uint8), 8, short_side=1)
  clip = read_clip(tmp_path / "v.mp4")
  assert clip.shape == (5, 16, 16, 3) and abs(int(clip.mean()) - 128) < 3
  write_mp4(tmp_path / "w.mp4", np.full((4, 16, 16, 3), 128, np.uint8), 8, short_side=1)
  with pytest.raises(ValueError, match="w.mp4 has 4 frames, clips before it 5; expected as many in all"):
    compute_features(find(tmp_path), function, "made")
  (tmp_path / "w.mp4").write_bytes(b"none")
  for name, message in (("none", "expected inception, i3d or"), ("nova_jax:none", "none"), ("builtins:str", "dim")):
    with pytest.raises(ValueError, match=message):
      open_features(name, "2")
  with pytest.raises(ValueError, match="w.mp4: is neither a picture nor a video"):
    compute_features(find(tmp_path), function, "made")


def test_a_file_without_pictures(tmp_path):
  with av.open(str(tmp_path / "sound.mp4"), "w") as container:
    stream = container.add_stream("aac", rate=8000)
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    sound.sample_rate = 8000
    container.mux(stream.encode(sound) + stream.encode(None))
  with pytest.raises(ValueError, match="sound.mp4: no video in it, only audio"):
    read_clip(tmp_path / "sound.mp4")


def test_what_is_not_read_is_counted(tmp_path):
  for name in ("a/b.PNG", "a.mov", "c.heic", "d.heic", "._e.png", "f"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
  assert {path.name for path in find(tmp_path)} == {"a.mov", "b.PNG"}
  assert passed_over(tmp_path) == f"{tmp_path}: 4 files are not read (2 .heic, 1 .png, 1 without an ending)"
  assert "1 .mov" not in passed_over(tmp_path, VIDEOS) and not passed_over(tmp_path / "a")
