"""The wrapper with networks whose results are known: means of pixels, and their repetition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nova_jax.autoencoders.layers import weight
from nova_jax.autoencoders.neural import NeuralAutoencoder
from nova_jax.autoencoders.tiling import TimeTiles

SHARED, APART = TimeTiles(17, 5, overlap=1, stride=4), TimeTiles(17, 5, overlap=0, stride=4)


class Means(nnx.Module):
  """A latent is the mean of 2 × 2 pixels of 4 frames (of the first frame alone), and decodes to copies of it."""

  latent_dim = 3
  spatial_stride = 2

  def __init__(self, *, logvar=(), norm=0.0):
    self.logvar, self.norm = weight(jnp.array(logvar)), norm
    self.shapes = nnx.static([])  # That have been compiled.

  def scaling(self):
    return np.array([0.0, 0.5, -0.5]), 2.0

  def encode(self, x):
    self.shapes.append(x.shape)
    assert x.shape[1] % 4 == 1
    first, rest = x[:, :1], x[:, 1:].reshape(x.shape[0], -1, 4, *x.shape[2:]).mean(2)
    x = jnp.concatenate([first, rest], axis=1)
    x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2, 3).mean((3, 5))
    return jnp.concatenate([x, jnp.broadcast_to(self.logvar[...], (*x.shape[:-1], self.logvar.shape[0]))], axis=-1)

  def decode(self, z):
    self.shapes.append(z.shape)
    z = z - self.norm * z.mean((2, 3), keepdims=True)
    z = jnp.concatenate([z[:, :1], z[:, 1:].repeat(4, axis=1)], axis=1)
    return z.repeat(2, axis=2).repeat(2, axis=3)


def wrap(time_tiles=SHARED, *, space_tile=None, dtype="float32", **options):
  return NeuralAutoencoder(Means(**options), time_tiles, space_tile=space_tile, dtype=dtype)


AUTOENCODER = wrap()


def clip(num_frames, height=4, width=6, batch=1):
  return np.random.default_rng(0).integers(0, 256, (batch, num_frames, height, width, 3), np.uint8)


def signed(pixels):
  return (pixels.astype(np.float32) - 127.5) / 127.5


@pytest.mark.parametrize("time_tiles", [SHARED, APART], ids=["shared", "apart"])
@pytest.mark.parametrize("num_frames", [1, 5, 17, 20, 33, 40])
def test_every_frame_survives(time_tiles, num_frames):
  """A clip that is constant within each latent is decoded as it was, whatever its length."""
  autoencoder = wrap(time_tiles)
  pixels = clip(num_frames)
  ends = [0, *(frame for frame in range(4, num_frames + 3, 4))]
  for start, end in itertools.pairwise(ends):
    pixels[:, start + 1:end + 1] = pixels[:, start + 1:start + 2]
  pixels = pixels[:, :, ::2, ::2].repeat(2, 2).repeat(2, 3)
  latents = autoencoder.encode(pixels)
  assert latents.shape[1] == autoencoder.num_latent_frames(num_frames) and latents.dtype == np.float32
  decoded = autoencoder.decode_pixels(latents)
  assert decoded.shape[1] == autoencoder.num_frames(latents.shape[1])
  np.testing.assert_allclose(decoded[:, :num_frames], signed(pixels), atol=1e-6)


def test_the_last_frame_goes_on_until_its_latent_is_whole():
  pixels = clip(20)
  mean, _ = AUTOENCODER.mean_and_std(AUTOENCODER.moments(pixels))
  last = signed(pixels[:, [17, 18, 19, 19]]).reshape(1, 4, 2, 2, 3, 2, 3).mean((1, 3, 5))
  np.testing.assert_allclose(mean[:, -1], last, atol=1e-6)


def test_tiles_equal_the_whole_for_a_network_that_sees_no_further():
  whole = wrap(TimeTiles(41, 11, overlap=1, stride=4))
  pixels = clip(40)
  latents = AUTOENCODER.encode(pixels)
  np.testing.assert_allclose(latents, whole.encode(pixels), atol=1e-6)
  np.testing.assert_allclose(AUTOENCODER.decode_pixels(latents), whole.decode_pixels(latents), atol=1e-6)


def test_one_tile_of_one_sample_at_a_time_and_each_shape_compiled_once():
  network = Means()
  autoencoder = NeuralAutoencoder(network, SHARED)
  for _ in range(2):
    autoencoder.decode(autoencoder.encode(clip(41, batch=2)))
  assert network.shapes == [(1, 17, 4, 6, 3), (1, 9, 4, 6, 3), (1, 5, 2, 3, 3), (1, 3, 2, 3, 3)]


def test_batches_on_another_device_are_as_samples_one_by_one():
  network, device = Means(), jax.devices()[1]
  autoencoder = NeuralAutoencoder(network, SHARED, batch_size=2, devices=[device])
  pixels = clip(5, batch=5)
  latents = AUTOENCODER.encode(pixels)
  np.testing.assert_allclose(autoencoder.encode(pixels), latents, atol=1e-6)
  assert network.shapes == [(2, 5, 4, 6, 3), (1, 5, 4, 6, 3)]
  assert jax.tree.leaves(autoencoder._state)[0].devices() == {device}
  np.testing.assert_array_equal(autoencoder.decode(latents), AUTOENCODER.decode(latents))


def test_devices_share_samples_in_one_program():
  network, devices = Means(), jax.devices()[:4]
  autoencoder = NeuralAutoencoder(network, SHARED, batch_size=2, devices=devices)
  one = NeuralAutoencoder(Means(), SHARED, batch_size=2)
  pixels = clip(5, batch=16)
  moments = autoencoder.moments(pixels)
  np.testing.assert_array_equal(moments, one.moments(pixels))
  np.testing.assert_array_equal(autoencoder.decode(moments[..., :3]), one.decode(moments[..., :3]))
  assert autoencoder._encode_tile._cache_size() == 1 and network.shapes[0] == (2, 5, 4, 6, 3)
  assert jax.tree.leaves(autoencoder._state)[0].devices() == {*devices}


def test_samples_of_a_batch_are_apart():
  pixels = clip(5, batch=3)
  latents = AUTOENCODER.encode(pixels)
  np.testing.assert_array_equal(AUTOENCODER.encode(pixels[1:2]), latents[1:2])
  np.testing.assert_array_equal(AUTOENCODER.decode(latents[1:2]), AUTOENCODER.decode(latents)[1:2])


def test_pixels_as_bytes_and_as_floats():
  pixels = clip(5)
  np.testing.assert_allclose(AUTOENCODER.moments(pixels), AUTOENCODER.moments(signed(pixels)), atol=1e-6)


def test_decoded_bytes_are_clamped_and_truncated():
  values = np.array([-1.5, -1, 0, 0.999, 1, 2], np.float32)
  latents = AUTOENCODER.scale(np.broadcast_to(values[:, None, None, None, None], (6, 1, 1, 1, 3)))
  assert AUTOENCODER.decode(latents)[:, 0, 0, 0, 0].tolist() == [0, 0, 127, 254, 255, 255]


@pytest.mark.parametrize("logvar, std", [
    ((), 0.0), ((2 * np.log(3),), 3.0), ((0.0, 2 * np.log(2), -100.0), (1.0, 2.0, np.exp(-15))), ((99.0,), np.exp(10))])
def test_standard_deviations(logvar, std):
  autoencoder = wrap(logvar=logvar)
  mean, actual = autoencoder.mean_and_std(autoencoder.moments(clip(1)))
  assert mean.shape == (1, 1, 2, 3, 3)
  expected = np.broadcast_to(np.float32(std), mean.shape)
  np.testing.assert_allclose(np.broadcast_to(actual, mean.shape), expected, rtol=1e-5)


def test_sampling():
  autoencoder = wrap(logvar=(2 * np.log(3),))
  pixels, keys = clip(1, 64, 64), jax.random.split(jax.random.key(0))
  mean, sample = autoencoder.encode(pixels), autoencoder.encode(pixels, keys[0])
  np.testing.assert_array_equal(sample, autoencoder.encode(pixels, keys[0]))
  assert not np.array_equal(sample, autoencoder.encode(pixels, keys[1]))
  # Noise of deviation 3, times the factor 2; 3,072 draws.
  assert abs(np.std(sample - mean) - 6) < 0.3 and abs(np.mean(sample - mean)) < 0.5


def test_scaling():
  z = np.random.default_rng(0).normal(size=(1, 1, 2, 2, 3)).astype(np.float32)
  np.testing.assert_allclose(AUTOENCODER.scale(z), (z - [0, 0.5, -0.5]) * 2, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(AUTOENCODER.unscale(AUTOENCODER.scale(z)), z, atol=1e-6)


def test_tiles_in_space():
  """Exact if places don't see each other; close to the whole for a smooth picture if they do a little."""
  y, x = np.mgrid[0:1:16j, 0:1:24j].astype(np.float32)
  latents = np.stack([y, x, np.sin(3 * x + y)], axis=-1)[None, None].repeat(3, axis=1)
  tiled, whole = wrap(space_tile=8), AUTOENCODER
  decoded = whole.decode_pixels(latents)
  np.testing.assert_allclose(tiled.decode_pixels(latents), decoded, atol=1e-6)
  pixels = clip(9, 32, 48)
  np.testing.assert_allclose(tiled.encode(pixels), whole.encode(pixels), atol=1e-5)
  tiled, whole = wrap(space_tile=8, norm=0.1), wrap(norm=0.1)
  error = np.abs(tiled.decode_pixels(latents) - whole.decode_pixels(latents)).max()
  assert 0 < error < 0.1 * np.ptp(decoded)


def test_frames_smaller_than_a_space_tile_are_whole():
  latents = AUTOENCODER.encode(clip(5))
  np.testing.assert_allclose(
      wrap(space_tile=8).decode_pixels(latents), AUTOENCODER.decode_pixels(latents), atol=1e-6)


def test_bfloat16_computes_in_it_and_returns_float32():
  # 1 + 2⁻¹⁰ is 1 in bfloat16.
  pixels = np.full((1, 1, 2, 2, 3), 1 + 2**-10, np.float32)
  moments = wrap(dtype="bfloat16").moments(pixels)
  assert moments.dtype == np.float32 and (moments == 1).all()


@pytest.mark.parametrize("size, message", [
    ((5, 6), "height 5 .* 2; .* 4 or 6"), ((4, 7), "width 7 .* 6 or 8"), ((1, 2), "height 1 .* to 2$")])
def test_sizes_that_do_not_divide_are_refused(size, message):
  with pytest.raises(ValueError, match=message):
    AUTOENCODER.encode(clip(1, *size))


def test_impossible_numbers_of_latents_are_refused():
  with pytest.raises(ValueError, match="take 5 or 7"):
    wrap(APART).decode(np.zeros((1, 6, 2, 2, 3), np.float32))


@pytest.mark.parametrize("options, message", [
    ({"space_tile": 3}, "space_tile: .*3"), ({"dtype": "float16"}, "float16")])
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    wrap(**options)
