import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nova_jax.autoencoders.layers import MIN_POSITIONS, NONE, NUM_QUERIES, SAME, Conv, FrameAttention, GroupNorm

SIDE = 32
assert SIDE**2 >= MIN_POSITIONS


def clip(*shape):
  return jax.random.normal(jax.random.key(0), shape)


@pytest.mark.parametrize("kernel, stride, pads, causal", [
    ((3, 3, 3), 1, SAME, True), ((3, 3, 3), 1, SAME, False), ((3, 3, 3), 2, ((0, 1), (0, 1)), True),
    ((1, 3, 3), 1, SAME, True), ((1, 1, 1), 1, NONE, True)])
def test_convolution_frame_by_frame_is_a_3d_convolution(kernel, stride, pads, causal):
  conv = Conv(4, 8, kernel, stride=stride, pads=pads, causal=causal, rngs=nnx.Rngs(0))
  conv.bias[...] = jnp.arange(8.0)
  x = clip(2, 5, SIDE, SIDE, 4)
  before = kernel[0] - 1 if causal else (kernel[0] - 1) // 2
  padded = jnp.pad(x, ((0, 0), (before, kernel[0] - 1 - before), (0, 0), (0, 0), (0, 0)), "edge")
  expected = jax.lax.conv_general_dilated(
      padded, conv.kernel[...], (stride,) * 3, ((0, 0), *pads), dimension_numbers=("NTHWC", "THWIO", "NTHWC"))
  np.testing.assert_allclose(jax.jit(conv)(x), expected + conv.bias[...], atol=1e-4)


@pytest.mark.parametrize("over_time", [True, False])
def test_group_norm(over_time):
  norm = GroupNorm(64, over_time=over_time)
  norm.weight[...], norm.bias[...] = 1.5 * jnp.ones(64), jnp.arange(64.0)
  x = 3 * clip(2, 3, 4, 5, 64) + 2
  groups = np.asarray(x, np.float64).reshape(2, 3, 4, 5, 32, 2)
  axes = (1, 2, 3, 5) if over_time else (2, 3, 5)
  normal = (groups - groups.mean(axes, keepdims=True)) / np.sqrt(groups.var(axes, keepdims=True) + 1e-6)
  np.testing.assert_allclose(norm(x), 1.5 * normal.reshape(x.shape) + np.arange(64), atol=1e-4)


def test_attention_in_parts_is_attention_within_each_frame():
  layer = FrameAttention(32, over_time=True, rngs=nnx.Rngs(0))
  x = clip(1, 2, SIDE, SIDE + 8, 32)
  assert SIDE * (SIDE + 8) > NUM_QUERIES
  tokens = layer.group_norm(x).reshape(2, -1, 32)
  q, k, v = layer.to_q(tokens), layer.to_k(tokens), layer.to_v(tokens)
  weights = jax.nn.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(32))
  np.testing.assert_allclose(jax.jit(layer)(x), layer.to_out[0](weights @ v).reshape(x.shape), atol=1e-5)
