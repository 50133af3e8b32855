import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoencoders.random_weights import fill
from flax import nnx

from nova_jax.autoencoders.cogvideox import CogVideoXConfig, CogVideoXNetwork, Downsample, repeat_time, repeat_to

SMALL = CogVideoXConfig(
    block_out_channels=(32, 64), layers_per_block=1, latent_channels=4, use_quant_conv=True, use_post_quant_conv=True)
encode = nnx.jit(CogVideoXNetwork.encode)
decode = nnx.jit(CogVideoXNetwork.decode)


@pytest.fixture(scope="module")
def network():
  network = fill(lambda: CogVideoXNetwork(SMALL, rngs=nnx.Rngs(0)))
  return network


def test_still_clips_are_images(network):
  """Means of equal frames, repeated frames and padding by the first leave a clip of equal frames as it is."""
  image = np.random.default_rng(0).standard_normal((1, 1, 8, 12, 3), np.float32)
  moments = encode(network, image)
  assert moments.shape == (1, 1, 2, 3, 8)
  np.testing.assert_allclose(encode(network, np.repeat(image, 5, axis=1)), moments.repeat(2, axis=1), atol=1e-4)
  pixels = decode(network, moments[..., :4])
  assert pixels.shape == image.shape
  clip = decode(network, moments[..., :4].repeat(2, axis=1))
  np.testing.assert_allclose(clip, pixels.repeat(5, axis=1), atol=1e-4)


def test_convolutions_around_the_latents(network):
  """The ones that a config asks for come last in encoding and first in decoding."""
  rng = np.random.default_rng(0)
  image, z = (rng.standard_normal(shape, np.float32) for shape in ((1, 1, 8, 12, 3), (1, 1, 2, 3, 4)))
  moments, pixels = encode(network, image), decode(network, z)
  graph, state = nnx.split(network)
  doubled = nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))
  doubled.quant_conv.kernel[...] *= 2
  doubled.quant_conv.bias[...] *= 2
  doubled.post_quant_conv.kernel[...] /= 2
  np.testing.assert_allclose(encode(doubled, image), 2 * moments, atol=1e-5)
  np.testing.assert_allclose(decode(doubled, 2 * z), pixels, atol=1e-5)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_maps_are_spread_as_pytorch_does(times):
  """Nearest is floor(i · in / out), the first frame apart."""
  maps = np.random.default_rng(0).standard_normal((1, 3, 2, 3, 1), np.float32)
  frames, height, width = 1 + 2 * times, 4, 12
  t = np.array([0] + [1 + i * 2 // (frames - 1) for i in range(frames - 1)])
  h, w = np.arange(height) * 2 // height, np.arange(width) * 3 // width
  expected = maps[:, t][:, :, h][:, :, :, w]
  np.testing.assert_array_equal(repeat_to(jnp.asarray(maps), expected.shape), expected)


def test_time_is_halved_and_doubled_after_the_first_frame():
  layer = Downsample(1, time=True, rngs=nnx.Rngs(0))
  layer.conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1)  # Copies.
  x = jnp.arange(5.0).reshape(1, 5, 1, 1, 1).repeat(2, axis=2).repeat(2, axis=3)
  np.testing.assert_array_equal(layer(x).ravel(), [0, 1.5, 3.5])
  np.testing.assert_array_equal(layer(x[:, :1]).ravel(), [0])
  np.testing.assert_array_equal(repeat_time(x[:, :3, :1, :1], 2).ravel(), [0, 1, 1, 2, 2])


@pytest.mark.slow
def test_released_sizes():
  network = nnx.eval_shape(lambda: CogVideoXNetwork(CogVideoXConfig(), rngs=nnx.Rngs(0)))
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.float32)
  assert nnx.eval_shape(CogVideoXNetwork.encode, network, shape(1, 17, 480, 720, 3)).shape == (1, 5, 60, 90, 32)
  assert nnx.eval_shape(CogVideoXNetwork.decode, network, shape(1, 5, 60, 90, 16)).shape == (1, 17, 480, 720, 3)
  assert network.spatial_stride == 8 and network.latent_dim == 16
  assert network.scaling() == (0.0, 0.7)


@pytest.mark.parametrize("channels, stride", [((32, 32), 4), ((32, 32, 32), 4), ((32,) * 5, 16)])
def test_stride_follows_the_blocks(channels, stride):
  cfg = CogVideoXConfig(block_out_channels=channels, layers_per_block=1)
  network = nnx.eval_shape(lambda: CogVideoXNetwork(cfg, rngs=nnx.Rngs(0)))
  moments = nnx.eval_shape(CogVideoXNetwork.encode, network, jax.ShapeDtypeStruct((1, 9, 32, 48, 3), np.float32))
  assert moments.shape == (1, 3, 32 // stride, 48 // stride, 32) and network.spatial_stride == stride


def test_config():
  published = {
      "_class_name": "AutoencoderKLCogVideoX", "act_fn": "silu", "block_out_channels": [32, 64], "latent_channels": 8,
      "down_block_types": ["CogVideoXDownBlock3D"] * 4, "up_block_types": ["CogVideoXUpBlock3D"] * 4,
      "layers_per_block": 2, "shift_factor": 0.5, "use_quant_conv": True, "latents_mean": None}
  assert CogVideoXConfig.from_published(published) == CogVideoXConfig(
      block_out_channels=(32, 64), latent_channels=8, layers_per_block=2, shift_factor=0.5, use_quant_conv=True)


@pytest.mark.parametrize("fields, message", [
    ({"act_fn": "gelu"}, "act_fn: .*gelu"), ({"norm_num_groups": 16}, "norm_num_groups: .*16"),
    ({"latents_mean": [0.0] * 16}, "latents_mean"), ({"temporal_compression_ratio": 8}, "temporal_compression_ratio"),
    ({"down_block_types": ["DownEncoderBlock2D"] * 4}, "down_block_types"),
    ({"up_block_types": ["CogVideoXUpBlock3D"] * 3 + ["UpDecoderBlock3D"]}, "up_block_types"),
    ({"block_out_channels": [32]}, "block_out_channels: .*2 blocks or more, got 1"),
    ({"block_out_channels": [32, 48]}, "block_out_channels")])
def test_configs_that_cannot_be_honoured_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    CogVideoXConfig.from_published(fields)
