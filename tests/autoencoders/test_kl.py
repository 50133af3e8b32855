import jax
import numpy as np
import pytest
from flax import nnx

from nova_jax.autoencoders import KLConfig, KLNetwork, make_network, wrap

SMALL = {
    "_class_name": "AutoencoderKL", "block_out_channels": [32, 32], "layers_per_block": 1, "latent_channels": 4,
    "act_fn": "silu", "norm_num_groups": 32, "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2}


@pytest.fixture(scope="module")
def certain():
  """An autoencoder whose latents have no variance, and nothing between the halves."""
  fields = {"double_z": False, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.5}
  return wrap(make_network(SMALL | fields, nnx.Rngs(0)))


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 12, 3), np.uint8)


def test_latents_without_variance(certain):
  moments = certain.moments(PIXELS)
  assert moments.shape == (2, 3, 4, 6, 4)
  np.testing.assert_array_equal(certain.encode(PIXELS, jax.random.key(0)), certain.encode(PIXELS))
  np.testing.assert_allclose(certain.encode(PIXELS), (moments - 0.5) * 0.18215, rtol=1e-6)


def test_frames_are_coded_alone(certain):
  latents = certain.encode(PIXELS)
  np.testing.assert_allclose(certain.encode(PIXELS[1:, 2:]), latents[1:, 2:], atol=1e-5)
  pixels = certain.decode_pixels(latents)
  assert pixels.shape == PIXELS.shape
  np.testing.assert_allclose(certain.decode_pixels(latents[1:, 2:]), pixels[1:, 2:], atol=1e-5)


def test_options_of_the_config():
  paths = {}
  for options in ({}, {"use_quant_conv": False}, {"use_post_quant_conv": False}, {"double_z": False}):
    make = lambda: make_network(SMALL | options, nnx.Rngs(0))
    paths[tuple(options)] = {path[0] for path, _ in nnx.to_flat_state(nnx.state(nnx.eval_shape(make)))}
    moments = nnx.eval_shape(lambda x: make().encode(x), jax.ShapeDtypeStruct((1, 1, 8, 8, 3), np.float32))
    assert moments.shape == (1, 1, 4, 4, 4 if "double_z" in options else 8)
  whole = {"encoder", "decoder", "quant_conv", "post_quant_conv"}
  assert paths == {
      (): whole, ("use_quant_conv",): whole - {"quant_conv"}, ("use_post_quant_conv",): whole - {"post_quant_conv"},
      ("double_z",): whole}


def test_released_sizes():
  """The autoencoder of SDXL: 83.65 million parameters, 8 × 8 pixels a latent."""
  make = lambda: KLNetwork(KLConfig(latent_channels=4), rngs=nnx.Rngs(0))
  network = nnx.eval_shape(make)
  assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network))) == 83_653_863
  assert network.spatial_stride == 8 and network.latent_dim == 4
  pixels = nnx.eval_shape(lambda z: make().decode(z), jax.ShapeDtypeStruct((1, 1, 128, 128, 4), np.float32))
  assert pixels.shape == (1, 1, 1024, 1024, 3)


@pytest.mark.parametrize("fields, message", [
    ({"act_fn": "gelu"}, "act_fn: .*gelu"), ({"norm_num_groups": 16}, "norm_num_groups: .*16"),
    ({"latents_mean": [0.0] * 4}, "latents_mean"), ({"mid_block_add_attention": False}, "mid_block_add_attention"),
    ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "down_block_types"),
    ({"up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock3D"]}, "up_block_types"),
    ({"block_out_channels": "32"}, "block_out_channels: expected a tuple"),
    ({"layers_per_block": 1.5}, "layers_per_block"), ({"block_out_channels": []}, "block_out_channels"),
    ({"block_out_channels": [32, 48]}, "block_out_channels"),
    ({"_class_name": "AutoencoderTiny"}, "_class_name: .*AutoencoderKL.*AutoencoderTiny")])
def test_configs_that_cannot_be_honoured_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    make_network(SMALL | fields, nnx.Rngs(0))
