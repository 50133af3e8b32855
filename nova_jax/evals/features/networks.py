"""Networks that provide features of pictures and clips: layers as data, and their published weights.

Both Inceptions consist of convolutions and pools, some of them in parallel branches. The functions here work in any
number of dimensions. Normalisations have fixed statistics and are folded into the preceding convolutions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from nova_jax.checkpoints.weight_files import open_file
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError

_EPS = 1e-3  # Epsilon of batch normalisation in TensorFlow's Inceptions.
_NORM = ("weight", "bias", "running_mean", "running_var")
_COUNTERS = (".num_batches_tracked",)  # Counters of PyTorch's normalisations, which only training uses.

Params = Mapping[str, Array]
Padding = Literal["SAME", "VALID"]


class Conv(NamedTuple):
  """A convolution with its normalisation and a ReLU."""

  name: str
  channels: int
  kernel: tuple[int, ...]
  strides: tuple[int, ...]
  padding: Padding = "SAME"


class Pool(NamedTuple):
  """A pool that takes the maximum, or the mean without padding."""

  window: tuple[int, ...]
  strides: tuple[int, ...]
  padding: Padding = "SAME"
  mean: bool = False


class Mixed(NamedTuple):
  """Parallel branches whose channels are concatenated in order."""

  branches: tuple[tuple[Any, ...], ...]  # A sequence of layers for each branch.


Layers = Sequence[Conv | Pool | Mixed]


def apply(params: Params, layers: Layers, x: Float[Array, "B *space C"]) -> Float[Array, "B *outer D"]:
  """Apply layers to x."""
  for layer in layers:
    if isinstance(layer, Mixed):
      x = jnp.concatenate([apply(params, branch, x) for branch in layer.branches], axis=-1)
    elif isinstance(layer, Pool):
      x = _pool(layer, x)
    else:
      axes = "DHW"[-len(layer.kernel):]
      x = lax.conv_general_dilated(
          x, params[f"{layer.name}.kernel"], layer.strides, layer.padding,
          dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"), precision=lax.Precision.HIGHEST)
      x = jax.nn.relu(x + params[f"{layer.name}.bias"])
  return x


def _pool(layer, x):
  window, strides = (1, *layer.window, 1), (1, *layer.strides, 1)
  if not layer.mean:
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, layer.padding)
  total = lax.reduce_window(x, 0.0, lax.add, window, strides, layer.padding)
  return total / lax.reduce_window(jnp.ones((1, *x.shape[1:-1], 1)), 0.0, lax.add, window, strides, layer.padding)


def convolutions(layers: Layers, channels: int = 3) -> Iterator[tuple[Conv, int]]:
  """Yield each convolution with the number of its input channels."""
  for layer in layers:
    if isinstance(layer, Mixed):
      for branch in layer.branches:
        yield from convolutions(branch, channels)
    elif isinstance(layer, Conv):
      yield layer, channels
    channels = width((layer,), channels)


def width(layers: Layers, channels: int = 3) -> int:
  """Return the number of output channels of layers, given that of input channels."""
  for layer in layers:
    if isinstance(layer, Mixed):
      channels = sum(width(branch, channels) for branch in layer.branches)
    elif isinstance(layer, Conv):
      channels = layer.channels
  return channels


def published_shapes(layers: Layers, kernel: str) -> dict[str, tuple[int, ...]]:
  """Return the shapes of all weights in PyTorch by published name.

  Args:
    layers: layers of the network.
    kernel: suffix that turns a layer's name into that of its kernel.
  """
  shapes = {}
  for layer, inputs in convolutions(layers):
    shapes[f"{layer.name}.{kernel}"] = (layer.channels, inputs, *layer.kernel)
    shapes.update({f"{layer.name}.bn.{key}": (layer.channels,) for key in _NORM})
  return shapes


def check_weights(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], network: str, unused: tuple[str, ...]
) -> None:
  """Check that weights are those of a network; the arguments are those of `fold`.

  Raises:
    UserError: weights are missing, misshapen or unknown.
  """
  wrong = [
      f"{name} {'missing' if name not in weights else f'of shape {tuple(weights[name].shape)}, expected {shape}'}"
      for name, shape in shapes.items() if name not in weights or tuple(weights[name].shape) != shape]
  unknown = [name for name in weights if name not in shapes and not name.startswith(unused)]
  if wrong or unknown:
    raise UserError(
        f"expected {network}; {len(wrong)} weights don't fit: {', '.join(wrong[:3])}"
        + (f"; unknown: {', '.join(unknown[:3])}" if unknown else ""))


def fold(
    weights: Mapping[str, np.ndarray], layers: Layers, kernel: str, shapes: Mapping[str, tuple[int, ...]], network: str,
    unused: tuple[str, ...] = (),
) -> dict[str, Array]:
  """Return kernels [*window, in, out] and biases, with the following normalisation folded in.

  Args:
    weights: published weights.
    layers: layers of the network.
    kernel: suffix that turns a layer's name into that of its kernel.
    shapes: shapes of all weights of the network, by published name.
    network: name of the network in errors.
    unused: prefixes of weights that the network may have and that are ignored.

  Raises:
    UserError: weights are missing, misshapen or unknown.
  """
  check_weights(weights, shapes, network, unused)
  params = {}
  for layer, _ in convolutions(layers):
    scale, bias, mean, variance = (np.asarray(weights[f"{layer.name}.bn.{key}"], np.float64) for key in _NORM)
    scale = scale / np.sqrt(variance + _EPS)
    folded = np.moveaxis(np.asarray(weights[f"{layer.name}.{kernel}"], np.float64), (0, 1), (-1, -2)) * scale
    params[f"{layer.name}.kernel"] = jnp.asarray(folded, jnp.float32)
    params[f"{layer.name}.bias"] = jnp.asarray(bias - mean * scale, jnp.float32)
  return params


class Network:
  """A feature function with published weights; see `evals/features/extract.py`.

  Attributes:
    published: name of the weights, as errors say it.
    convert: function that converts published weights to ours.
  """

  published: ClassVar[str]
  convert: ClassVar[Callable[[Mapping[str, np.ndarray]], Params]]

  def __init__(self, params: Params):
    self._params = params

  @classmethod
  def load(cls, path: str | Path) -> Self:
    """Load weights from a file, as `read` does.

    Raises:
      UserError: the file can't be read, or belongs to another network.
    """
    return cls(cls.convert(cls.read(path)))

  @classmethod
  def read(cls, path: str | Path) -> dict[str, np.ndarray]:
    """Read weights from safetensors, or from a PyTorch file (which needs `pip install -e .[torch]`).

    Raises:
      UserError: the file can't be read, or has no weights.
    """
    path = as_path(path)
    if not path.is_file():
      raise UserError(f"{path} is not a file; expected weights of {cls.published}")
    return {name: stored.read() for name, stored in open_file(path, without=_COUNTERS).items()}


def scaled(frames: UInt8[Array, "*B height width 3"], side: int) -> Float[Array, "*B side side 3"]:
  """Return frames in [−1, 1], stretched to a square.

  Interpolation is linear between pixel centres without antialiasing, as in PyTorch's `interpolate`.
  """
  x = frames.astype(jnp.float32) / 255
  return 2 * jax.image.resize(x, (*x.shape[:-3], side, side, 3), "linear", antialias=False) - 1
