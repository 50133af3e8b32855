import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoencoders.random_weights import fill
from flax import nnx

from nova_jax.autoencoders.ltx import LTXConfig, LTXNetwork, fold, frequencies, patchify, unfold, unpatchify

SMALL = LTXConfig(
    block_out_channels=(8, 8, 16), layers_per_block=(1, 1, 1), decoder_block_out_channels=(8, 16),
    decoder_layers_per_block=(1, 1), latent_channels=4, latents_mean=(1, 4, 1, 1, 1), latents_std=(1, 4, 1, 1, 1))
encode = nnx.jit(LTXNetwork.encode)
decode = nnx.jit(LTXNetwork.decode)


@pytest.fixture(scope="module")
def network():
  network = fill(lambda: LTXNetwork(SMALL, rngs=nnx.Rngs(0)))
  network.decoder.timestep_scale[...] = jnp.float32(1000)
  return network


def test_cells_are_ordered_channel_frame_row_column():
  x = np.random.default_rng(0).standard_normal((2, 4, 4, 6, 3), np.float32)
  folded = fold(x, (2, 2, 3)).reshape(2, 2, 2, 2, 3, 2, 2, 3)
  for r, p, q in np.ndindex(2, 2, 3):
    np.testing.assert_array_equal(folded[..., r, p, q], x[:, r::2, p::2, q::3])
  np.testing.assert_array_equal(unfold(fold(x, (2, 2, 3)), (2, 2, 3)), x)


def test_patches_are_ordered_channel_column_row():
  x = np.random.default_rng(0).standard_normal((1, 2, 8, 12, 3), np.float32)
  patches = patchify(x).reshape(1, 2, 2, 3, 3, 4, 4)
  for q, p in np.ndindex(4, 4):
    np.testing.assert_array_equal(patches[..., q, p], x[:, :, p::4, q::4])
  np.testing.assert_array_equal(unpatchify(patchify(x)), x)


def test_frequencies():
  np.testing.assert_array_equal(frequencies(0.0), [1] * 128 + [0] * 128)
  angles = 50 * 10000.0 ** (-np.arange(128) / 128)
  np.testing.assert_allclose(frequencies(50.0), np.concatenate([np.cos(angles), np.sin(angles)]), atol=1e-5)


def test_images_and_still_clips(network):
  """The encoder pads with the first frame, so that every latent of equal frames is the image's."""
  image = np.random.default_rng(0).standard_normal((1, 1, 16, 24, 3), np.float32)
  moments = encode(network, image)
  assert moments.shape == (1, 1, 2, 3, 5)
  np.testing.assert_allclose(encode(network, np.repeat(image, 5, axis=1)), moments.repeat(3, axis=1), atol=1e-4)


def test_decoding_at_a_timestep(network):
  """It is 0 unless given, and multiplied by a weight."""
  z = np.random.default_rng(0).standard_normal((1, 1, 2, 3, 4), np.float32)
  still, noisy = decode(network, z, 0.0), decode(network, z, 0.05)
  assert still.shape == (1, 1, 16, 24, 3)
  np.testing.assert_array_equal(decode(network, z), still)
  assert jnp.abs(noisy - still).max() > 0.01 * jnp.abs(still).max()
  graph, state = nnx.split(network)
  slower = nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))
  slower.decoder.timestep_scale[...] /= 2
  np.testing.assert_allclose(decode(slower, z, 0.1), noisy, atol=1e-4)


def test_scaling_of_channels_is_in_the_weights(network):
  graph, state = nnx.split(network)
  loaded = nnx.merge(graph, state)
  loaded.shift_factors[...] = jnp.arange(4.0).reshape(1, 4, 1, 1, 1)
  loaded.scaling_factors[...] = jnp.arange(4.0, 8.0).reshape(1, 4, 1, 1, 1)
  shift, factor = loaded.scaling()
  np.testing.assert_array_equal(shift, [0, 1, 2, 3])
  np.testing.assert_array_equal(factor, [4, 5, 6, 7])


def test_released_sizes():
  network = nnx.eval_shape(lambda: LTXNetwork(LTXConfig(), rngs=nnx.Rngs(0)))
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.float32)
  assert nnx.eval_shape(LTXNetwork.encode, network, shape(1, 17, 512, 768, 3)).shape == (1, 3, 16, 24, 129)
  assert nnx.eval_shape(LTXNetwork.decode, network, shape(1, 3, 16, 24, 128)).shape == (1, 17, 512, 768, 3)
  assert network.spatial_stride == 32 and network.latent_dim == 128
  assert network.scaling() == (0.0, 1.0)


def test_config():
  published = {
      "_class_name": "AutoencoderKLLTXVideo", "act_fn": "silu", "patch_size": 4, "shift_factor": None,
      "block_out_channels": [8, 8, 16], "layers_per_block": [1, 1, 1], "decoder_block_out_channels": [8, 16],
      "decoder_layers_per_block": [1, 1], "latent_channels": 4, "latents_mean": [1, 4, 1, 1, 1],
      "latents_std": [1, 4, 1, 1, 1]}
  assert LTXConfig.from_published(published) == SMALL


@pytest.mark.parametrize("fields, message", [
    ({"act_fn": "gelu"}, "act_fn: .*gelu"), ({"patch_size": 2}, "patch_size: .*2"),
    ({"block_out_channels": [8] * 6}, "^block_out_channels: .*got 6"), ({"layers_per_block": [1]}, "^layers_per_block"),
    ({"decoder_block_out_channels": [8, 16, 32, 32]}, "decoder_block_out_channels: .*twice"),
    ({"decoder_block_out_channels": [8, 16]}, "decoder_block_out_channels"),
    ({"decoder_layers_per_block": [1]}, "decoder_layers_per_block"),
    ({"latents_mean": [0.5] * 128}, "latents_mean.*expected a whole number"),
    ({"latents_mean": [1, 128, 1, 1, 1]}, "latents_mean, latents_std: .*both")])
def test_configs_that_cannot_be_honoured_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    LTXConfig.from_published(fields)
