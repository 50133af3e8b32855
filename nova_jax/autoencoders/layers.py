"""Layers that the autoencoders share. They work on clips [B, T, H, W, C].

Parameters keep their published names. Weights may be stored in half precision; each layer computes in the dtype of its
input, and normalises in float32. Weights are not sharded, since an autoencoder is small beside its activations.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from nova_jax.autoencoders.published import NUM_GROUPS
from nova_jax.models.layers import Buffer, parameter

EPS = 1e-6
MIN_POSITIONS = 1024  # Positions per frame from which a CPU convolves frame by frame.
NUM_QUERIES = 1024  # Queries per chunk of attention.

Pads = tuple[tuple[int, int], tuple[int, int]]
SAME: Pads = ((1, 1), (1, 1))
NONE: Pads = ((0, 0), (0, 0))
END: Pads = ((0, 1), (0, 1))  # Padding of a convolution that halves the size.


def weight(value: Array) -> nnx.Variable:
  """Return a variable that optimizers don't update and every device holds in full."""
  return parameter(value, (None,) * value.ndim, Buffer)


class Conv(nnx.Module):
  """A convolution over [height, width] of each frame, or over [time, height, width].

  Args:
    dim: number of input channels.
    out_dim: number of output channels.
    kernel: kernel sizes along two or three axes.
    stride: stride along these axes.
    pads: number of zeros before and after height and width.
    causal: padding in time repeats only the first frame (true), or the first and the last (false).
  """

  def __init__(
      self, dim: int, out_dim: int, kernel: Sequence[int] = (3, 3), *, stride: int = 1, pads: Pads = SAME,
      causal: bool = True, rngs: nnx.Rngs,
  ):
    self.stride, self.pads, self.causal = (stride,) * len(kernel), pads, causal
    scale = (dim * np.prod(kernel)) ** -0.5
    self.kernel = weight(scale * rngs.params.normal((*kernel, dim, out_dim)))
    self.bias = weight(jnp.zeros((out_dim,)))

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B t h w D"]:
    kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
    if kernel.ndim == 4:
      y = _convolve(x.reshape(-1, *x.shape[2:]), kernel, self.stride, self.pads) + bias
      return y.reshape(*x.shape[:2], *y.shape[1:])
    before, after = (len(kernel) - 1, 0) if self.causal else ((len(kernel) - 1) // 2,) * 2

    def all_frames(x):
      x = jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0)), "edge")
      return _convolve(x, kernel, self.stride, ((0, 0), *self.pads)) + bias

    # XLA's CPU backend is slow in 3-D, and would copy a whole clip to pad it and to add a bias.
    def by_frame(x):
      num_frames, step = x.shape[1], self.stride[0]

      def frame(t):
        positions = jnp.clip(t * step + jnp.arange(len(kernel)) - before, 0, num_frames - 1)
        frames = (jax.lax.dynamic_index_in_dim(x, position, axis=1, keepdims=False) for position in positions)
        return sum(_convolve(*pair, self.stride[1:], self.pads) for pair in zip(frames, kernel, strict=True)) + bias

      num_out = (num_frames + before + after - len(kernel)) // step + 1
      return jnp.moveaxis(jax.lax.map(frame, jnp.arange(num_out)), 0, 1)

    large = x.shape[2] * x.shape[3] >= MIN_POSITIONS
    return jax.lax.platform_dependent(x, cpu=by_frame, default=all_frames) if large else all_frames(x)


def _convolve(x, kernel, stride, pads):
  spatial = "THW"[-len(stride):]
  numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
  return jax.lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=numbers)


class GroupNorm(nnx.Module):
  """Normalisation of 32 groups of channels, for each frame separately or over the whole clip."""

  def __init__(self, dim: int, *, over_time: bool):
    self.axes = (1, 2, 3) if over_time else (2, 3)
    self.weight = weight(jnp.ones((dim,)))
    self.bias = weight(jnp.zeros((dim,)))

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    # Each channel is reduced first and then each group, so that no clip is reshaped or copied.
    y = x.astype(jnp.float32)
    mean = self._group_mean(y)
    variance = self._group_mean(jnp.square(y - mean))
    scale = self.weight[...] * jax.lax.rsqrt(variance + EPS)
    return (y * scale + (self.bias[...] - mean * scale)).astype(x.dtype)

  def _group_mean(self, x):
    """Return the mean of each channel's group."""
    mean = x.mean(self.axes, keepdims=True)
    groups = mean.reshape(*mean.shape[:-1], NUM_GROUPS, -1)
    return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(mean.shape)


class Dense(nnx.Module):
  """A linear map over channels."""

  def __init__(self, dim: int, out_dim: int, *, rngs: nnx.Rngs):
    self.kernel = weight(dim**-0.5 * rngs.params.normal((dim, out_dim)))
    self.bias = weight(jnp.zeros((out_dim,)))

  def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... D"]:
    return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class FrameAttention(nnx.Module):
  """Single-head attention between the positions of a frame."""

  def __init__(self, dim: int, *, over_time: bool, rngs: nnx.Rngs):
    self.group_norm = GroupNorm(dim, over_time=over_time)
    self.to_q, self.to_k, self.to_v = (Dense(dim, dim, rngs=rngs) for _ in range(3))
    self.to_out = nnx.List([Dense(dim, dim, rngs=rngs)])

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    tokens = self.group_norm(x).reshape(-1, x.shape[2] * x.shape[3], x.shape[4])
    q, k, v = (project(tokens) for project in (self.to_q, self.to_k, self.to_v))
    # One frame and one chunk of queries at a time: the scores of a frame's thousands of positions take too much memory.
    attended = jax.lax.map(lambda frame: _attend(*frame), (q, k, v))
    return self.to_out[0](attended).reshape(x.shape)


def _attend(q: Float[Array, "S C"], k: Float[Array, "S C"], v: Float[Array, "S C"]) -> Float[Array, "S C"]:
  def one_query(q):
    scores = jnp.dot(k, q * (q.shape[-1] ** -0.5), preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores).astype(v.dtype) @ v

  return jax.lax.map(one_query, q, batch_size=min(NUM_QUERIES, len(q)))


def repeat_space(x: Float[Array, "B T H W C"]) -> Float[Array, "B T 2*H 2*W C"]:
  """Double height and width by nearest neighbour."""
  return x.repeat(2, axis=2).repeat(2, axis=3)
