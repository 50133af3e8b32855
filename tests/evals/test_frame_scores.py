"""PSNR and SSIM of clips of photographs against scikit-image, and what lies at their ends."""

import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from nova_jax.evals.frame_scores import psnr, ssim
from nova_jax.media.footage import open_footage
from nova_jax.media.lossless import write_avi


def clips():
  """A camera that passes over photographs, and the same as a predictor might see it: dim, late and noisy."""
  rng = np.random.default_rng(0)
  for picture in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()):
    real = np.stack([picture[40 + 3 * t : 104 + 3 * t, 60 + 5 * t : 156 + 5 * t] for t in range(6)])
    made = real[[0, 0, 1, 2, 3, 4]] * 0.9 + rng.normal(0, [[[[2 * t]]] for t in range(6)], real.shape)
    yield real, made.clip(0, 255).astype(np.uint8)


def test_clips_of_photographs_score_as_with_scikit_image():
  for real, made in clips():
    expected = [peak_signal_noise_ratio(*pair, data_range=255) for pair in zip(real, made, strict=True)]
    np.testing.assert_allclose(psnr(real, made), expected, atol=1e-9)
    expected = [
        structural_similarity(
            *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=-1)
        for pair in zip(real, made, strict=True)]
    np.testing.assert_allclose(ssim(real, made), expected, atol=1e-9)
    assert ssim(real[..., :1], made[..., :1]).shape == (6,), "grey, too"


def test_equal_frames_and_frames_that_do_not_compare():
  frames = next(clips())[0]
  assert psnr(frames, frames).tolist() == [100.0] * 6 and np.allclose(ssim(frames, frames), 1)
  for score in (psnr, ssim):
    with pytest.raises(ValueError, match="expected as many of one size, got 6 of 96 x 64 and 5 of 96 x 64"):
      score(frames, frames[1:])
  with pytest.raises(ValueError, match="at least 11 x 11 pixels, got 96 x 10"):
    ssim(frames[:, :10], frames[:, :10])


def test_a_file_without_loss_has_the_same_pixels_and_bytes(tmp_path):
  real, _ = next(clips())
  for name in "ab":
    write_avi(tmp_path / f"{name}.avi", real[:, :63, :95], 8)
  write_avi(tmp_path / "grey.avi", real[..., :1], 8)
  with open_footage(tmp_path / "a.avi") as footage:
    np.testing.assert_array_equal(np.stack([frame.upright() for frame in footage.frames]), real[:, :63, :95])
  with open_footage(tmp_path / "grey.avi") as footage:
    np.testing.assert_array_equal(np.stack([frame.upright() for frame in footage.frames]), real[..., [0, 0, 0]])
  assert (tmp_path / "a.avi").read_bytes() == (tmp_path / "b.avi").read_bytes()
