import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nova_jax.autoencoders import OpenSoraConfig, OpenSoraNetwork
from nova_jax.autoencoders.opensora import ClipUpsample, double

BLOCKS = {
    "down_block_types": ["DownEncoderBlock2D"] * 2 + ["DownEncoderBlock3D"] * 2,
    "up_block_types": ["UpDecoderBlock3D"] * 4}


def test_doubling_is_linear_between_centres():
  np.testing.assert_allclose(double(jnp.array([[0.0], [1.0], [3.0]]), 0)[:, 0], [0, 0.25, 0.75, 1.5, 2.5, 3])
  x = jax.random.normal(jax.random.key(0), (2, 3, 4))
  np.testing.assert_allclose(double(x, 1), jax.image.resize(x, (2, 6, 4), "linear"), atol=1e-6)


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_first_frame_is_doubled_in_space_only(num_frames):
  """With a convolution that copies, the first frame and the later ones are resized apart."""
  layer = ClipUpsample(1, (1, 1, 1), rngs=nnx.Rngs(0))
  layer.conv.pads, layer.conv.kernel[...] = ((0, 0), (0, 0)), jnp.ones((1, 1, 1, 1, 1))
  x = jax.random.normal(jax.random.key(0), (1, num_frames, 3, 5, 1))
  first = jax.image.resize(x[:, :1], (1, 1, 6, 10, 1), "linear")
  rest = jax.image.resize(x[:, 1:], (1, 2 * (num_frames - 1), 6, 10, 1), "linear") if num_frames > 1 else x[:, :0, :0]
  expected = np.concatenate([first, rest.reshape(1, -1, 6, 10, 1)], axis=1)
  np.testing.assert_allclose(layer(x), expected, atol=1e-6)


@pytest.mark.slow
def test_released_sizes():
  make = lambda: OpenSoraNetwork(OpenSoraConfig(latent_channels=4), rngs=nnx.Rngs(0))
  network = nnx.eval_shape(make)
  assert network.spatial_stride == 8 and network.latent_dim == 4
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.float32)
  for num_frames, num_latents in ((1, 1), (17, 5)):
    moments = nnx.eval_shape(lambda x: make().encode(x), shape(1, num_frames, 480, 768, 3))
    assert moments.shape == (1, num_latents, 60, 96, 8)
    pixels = nnx.eval_shape(lambda z: make().decode(z), shape(1, num_latents, 60, 96, 4))
    assert pixels.shape == (1, num_frames, 480, 768, 3)


def test_config():
  published = {**BLOCKS, "latent_channels": 4, "scaling_factor": 0.5, "block_out_channels": [32, 32, 64, 64]}
  cfg = OpenSoraConfig.from_published(published)
  assert cfg == OpenSoraConfig(latent_channels=4, scaling_factor=0.5, block_out_channels=(32, 32, 64, 64))


@pytest.mark.parametrize("fields, message", [
    ({"down_block_types": ["DownEncoderBlock2D"] * 4}, "down_block_types"),
    ({"up_block_types": ["UpDecoderBlock2D"] * 4}, "up_block_types"), ({"latents_std": [1.0] * 4}, "latents_std"),
    ({"block_out_channels": [32, 32, 32]}, "4 levels")])
def test_configs_that_cannot_be_honoured_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    OpenSoraConfig.from_published(BLOCKS | fields)
