import jax.numpy as jnp
import numpy as np
import pytest

from nova_jax.autoencoders import PixelAutoencoder, make_autoencoder
from nova_jax.data.digits import one_digit

PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1)


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_formula_and_way_back(asarray):
  autoencoder = PixelAutoencoder()
  latents = autoencoder.encode(asarray(PIXELS))
  assert isinstance(latents, type(asarray(PIXELS))) and latents.dtype == np.float32
  np.testing.assert_allclose(latents.ravel()[::255], [(-1 + 0.847) / 0.46, (1 + 0.847) / 0.46], rtol=1e-5)
  pixels = autoencoder.decode(latents)
  assert isinstance(pixels, type(asarray(PIXELS))) and pixels.dtype == np.uint8
  assert np.abs(np.asarray(pixels).astype(int) - PIXELS).max() <= 1


def test_decoding_clamps_and_truncates():
  autoencoder = PixelAutoencoder(mean=0.0, std=1.0)
  latents = np.float32([-3, -1, 0, 0.0077, 1, 3])  # 0 is 127.5; 0.0077 is 128.48.
  assert autoencoder.decode(latents).tolist() == [0, 0, 127, 128, 255, 255]


def test_defaults_standardise_the_moving_digits():
  videos = np.stack([clip.video for clip in one_digit.make_clips("train", 400)])
  latents = PixelAutoencoder().encode(videos)
  assert latents.mean() == pytest.approx(0, abs=0.02) and latents.std() == pytest.approx(1, abs=0.02)


def test_by_name():
  autoencoder = make_autoencoder("pixels")
  assert (autoencoder.latent_dim, autoencoder.spatial_stride) == (1, 1)
  assert autoencoder.num_frames(autoencoder.num_latent_frames(7)) == 7
  with pytest.raises(ValueError, match="did you mean 'pixels'"):
    make_autoencoder("pixel")
