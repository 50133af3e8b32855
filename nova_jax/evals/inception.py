"""InceptionV3 as FID uses it: pictures → 2048 features, by weights that the user brings.

The network of "Rethinking the Inception Architecture for Computer Vision" (Szegedy et al., 2016), in the form that
TensorFlow's FID graph has: average pools count no padding, and the last block takes a maximum instead. The weights are
`pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, or the same names in safetensors; torchvision's own weights give
other numbers than the published FID.
Invariant: features of a picture do not depend on the pictures beside it.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from nova_jax.evals.weights import NORM, check_weights, fold_norm, read_weights

DIM = 2048
SIDE = 299  # Pixels a side that pictures are scaled to.
_UNUSED = ("fc.", "AuxLogits.")  # The classifiers.

Params = Mapping[str, Array]

# Layers of a branch: name, output channels, kernel, stride, padding.
_Conv = tuple[str, int, tuple[int, int], int, tuple[int, int]]


def _conv(name: str, channels: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True) -> _Conv:
  kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
  return name, channels, kernel, stride, tuple(side // 2 for side in kernel) if same else (0, 0)


_STEM = (
    _conv("Conv2d_1a_3x3", 32, 3, 2, same=False), _conv("Conv2d_2a_3x3", 32, 3, same=False),
    _conv("Conv2d_2b_3x3", 64, 3), None, _conv("Conv2d_3b_1x1", 80, 1), _conv("Conv2d_4a_3x3", 192, 3, same=False),
    None)  # None halves by a maximum.


def _a(pool: int):
  return (
      [_conv("branch1x1", 64, 1)], [_conv("branch5x5_1", 48, 1), _conv("branch5x5_2", 64, 5)],
      [_conv("branch3x3dbl_1", 64, 1), _conv("branch3x3dbl_2", 96, 3), _conv("branch3x3dbl_3", 96, 3)],
      ["average", _conv("branch_pool", pool, 1)])


def _b():
  return (
      [_conv("branch3x3", 384, 3, 2, same=False)],
      [_conv("branch3x3dbl_1", 64, 1), _conv("branch3x3dbl_2", 96, 3), _conv("branch3x3dbl_3", 96, 3, 2, same=False)],
      ["halve"])


def _c(width: int):
  row, column = (1, 7), (7, 1)
  return (
      [_conv("branch1x1", 192, 1)],
      [_conv("branch7x7_1", width, 1), _conv("branch7x7_2", width, row), _conv("branch7x7_3", 192, column)],
      [_conv("branch7x7dbl_1", width, 1), _conv("branch7x7dbl_2", width, column), _conv("branch7x7dbl_3", width, row),
       _conv("branch7x7dbl_4", width, column), _conv("branch7x7dbl_5", 192, row)],
      ["average", _conv("branch_pool", 192, 1)])


def _d():
  return (
      [_conv("branch3x3_1", 192, 1), _conv("branch3x3_2", 320, 3, 2, same=False)],
      [_conv("branch7x7x3_1", 192, 1), _conv("branch7x7x3_2", 192, (1, 7)), _conv("branch7x7x3_3", 192, (7, 1)),
       _conv("branch7x7x3_4", 192, 3, 2, same=False)],
      ["halve"])


def _e(pool: str):
  fork = lambda name: [_conv(f"{name}a", 384, (1, 3)), _conv(f"{name}b", 384, (3, 1))]  # Side by side.
  return (
      [_conv("branch1x1", 320, 1)], [_conv("branch3x3_1", 384, 1), fork("branch3x3_2")],
      [_conv("branch3x3dbl_1", 448, 1), _conv("branch3x3dbl_2", 384, 3), fork("branch3x3dbl_3")],
      [pool, _conv("branch_pool", 192, 1)])


_BLOCKS = {
    "Mixed_5b": _a(32), "Mixed_5c": _a(64), "Mixed_5d": _a(64), "Mixed_6a": _b(), "Mixed_6b": _c(128),
    "Mixed_6c": _c(160), "Mixed_6d": _c(160), "Mixed_6e": _c(192), "Mixed_7a": _d(), "Mixed_7b": _e("average"),
    "Mixed_7c": _e("maximum")}


class Inception:
  """Features of pictures, or of videos' frames; a feature function (see `evals/features.py`)."""

  dim = DIM

  def __init__(self, params: Params):
    self._params = params

  @classmethod
  def load(cls, path: str | Path) -> "Inception":
    """Read weights, in a file that `read_weights` reads.

    Raises:
      ValueError: the file can't be read, or isn't of this network.
    """
    return cls(convert(read_weights(path, "InceptionV3, such as pytorch-fid's")))

  def __call__(self, clips: UInt8[np.ndarray, "B T height width 3"]) -> Float[np.ndarray, "B*T 2048"]:
    """Return the features of every frame."""
    return np.asarray(_scaled_features(self._params, clips.reshape(-1, *clips.shape[2:])))


def shapes() -> dict[str, tuple[int, ...]]:
  """Return the published names of all weights, and PyTorch's shapes."""
  wanted, channels = {}, 3

  def conv(prefix, layer, inputs):
    name, outputs, kernel, *_ = layer
    wanted[f"{prefix}{name}.conv.weight"] = (outputs, inputs, *kernel)
    wanted.update({f"{prefix}{name}.bn.{key}": (outputs,) for key in NORM})
    return outputs

  for layer in _STEM:
    channels = channels if layer is None else conv("", layer, channels)
  for block, branches in _BLOCKS.items():
    total = 0
    for branch in branches:
      width = channels
      for layer in branch:
        if isinstance(layer, list):
          width = sum([conv(f"{block}.", part, width) for part in layer])
        elif not isinstance(layer, str):
          width = conv(f"{block}.", layer, width)
      total += width
    channels = total
  assert channels == DIM
  return wanted


def convert(weights: Mapping[str, np.ndarray]) -> Params:
  """Turn published weights into ours: kernels [h, w, in, out] with the normalisation folded in, and biases.

  Raises:
    ValueError: weights are missing or misshapen; the classifier's and counters are left alone.
  """
  wanted = shapes()
  check_weights(weights, wanted, "pytorch-fid's InceptionV3", _UNUSED)
  params = {}
  for name in wanted:
    layer = name.removesuffix(".conv.weight")
    if layer != name:
      params[f"{layer}.kernel"], params[f"{layer}.bias"] = fold_norm(weights[name], weights, f"{layer}.bn")
  return params


@jax.jit
def features(params: Params, x: Float[Array, "B height width 3"]) -> Float[Array, "B 2048"]:
  """Return features of pictures in [-1, 1], of any size from 75 pixels on."""
  for layer in _STEM:
    x = _pool(x, "halve") if layer is None else _apply(params, "", layer, x)
  for block, branches in _BLOCKS.items():
    x = jnp.concatenate([_branch(params, f"{block}.", branch, x) for branch in branches], axis=-1)
  return x.mean((1, 2))


@jax.jit
def _scaled_features(params, pictures):
  x = pictures.astype(jnp.float32) / 255
  # As pytorch-fid scales: between pixels' middles, and no smoothing of large pictures.
  x = jax.image.resize(x, (x.shape[0], SIDE, SIDE, 3), "linear", antialias=False)
  return features(params, 2 * x - 1)


def _branch(params, prefix, branch, x):
  for layer in branch:
    if isinstance(layer, str):
      x = _pool(x, layer)
    elif isinstance(layer, list):
      x = jnp.concatenate([_apply(params, prefix, part, x) for part in layer], axis=-1)
    else:
      x = _apply(params, prefix, layer, x)
  return x


def _apply(params, prefix, layer, x):
  name, _, _, stride, padding = layer
  x = lax.conv_general_dilated(
      x, params[f"{prefix}{name}.kernel"], (stride, stride), [(side, side) for side in padding],
      dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST)
  return jax.nn.relu(x + params[f"{prefix}{name}.bias"])


def _pool(x, kind):
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1) if kind == "halve" else (1, 1, 1, 1)
  padding = "VALID" if kind == "halve" else "SAME"
  if kind != "average":
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
  total = lax.reduce_window(x, 0.0, lax.add, window, strides, padding)
  count = lax.reduce_window(jnp.ones((1, *x.shape[1:3], 1)), 0.0, lax.add, window, strides, padding)
  return total / count
