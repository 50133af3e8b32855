"""LPIPS: the distance of two frames in the features of a classifier, with weights provided by the user.

"The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (Zhang et al., 2018), version 0.1: features of
five layers are scaled to length one at each position; their squared differences are weighted by channel, summed, and
averaged over positions. There are two files: torchvision's AlexNet or VGG-16, whose layers are named `features.N`, and
the weights of the channels, `lin0.model.1.weight` to `lin4`, of richzhang/PerceptualSimilarity; or one file with both.
Invariant: the distance of two frames does not depend on the other frames of a batch.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from nova_jax.evals.features.networks import Network, Params, check_weights
from nova_jax.utils.errors import UserError

_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPS = 1e-10
_BATCH = 32
_UNUSED = ("classifier.",)


class _Conv(NamedTuple):
  """A convolution with its ReLU, by its number among torchvision's `features`."""

  number: int
  channels: int
  kernel: int = 3
  stride: int = 1
  padding: int = 1


class _Pool(NamedTuple):
  """A pool that takes the maximum, of windows that lie within the frame."""

  kernel: int


class _Network(NamedTuple):
  layers: tuple[_Conv | _Pool, ...]
  compared: tuple[int, ...]  # Numbers of the convolutions whose outputs are compared.


def _vgg() -> _Network:
  layers, number = [], 0
  for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
    layers += [_Conv(number + 2 * i, channels) for i in range(count)] + [_Pool(2)]
    number += 2 * count + 1
  return _Network(tuple(layers[:-1]), (2, 7, 14, 21, 28))


NETWORKS: Mapping[str, _Network] = MappingProxyType({
    "AlexNet": _Network(
        (_Conv(0, 64, 11, 4, 2), _Pool(3), _Conv(3, 192, 5, 1, 2), _Pool(3), _Conv(6, 384), _Conv(8, 256),
         _Conv(10, 256)), (0, 3, 6, 8, 10)),
    "VGG-16": _vgg()})


class LPIPS(Network):
  """Distances of frames."""

  published = "AlexNet or VGG-16 from torchvision, or of LPIPS's channels"

  def __init__(self, network: str, params: Params):
    super().__init__(params)
    self._network = network

  @classmethod
  def load_parts(cls, paths: Sequence[str | Path]) -> Self:
    """Load weights from files that hold a part each, as `read` does.

    Raises:
      UserError: a file can't be read, or they are not the weights of one of `NETWORKS` and of its channels.
    """
    weights = {}
    for path in paths:
      weights |= cls.read(path)
    return cls(*convert(weights))

  def __call__(
      self, real: UInt8[np.ndarray, "T height width 3"], made: UInt8[np.ndarray, "T height width 3"]
  ) -> Float[np.ndarray, "T"]:
    """Return the distance of each frame from the real one."""
    if real.shape != made.shape:
      raise UserError(f"frames to compare: expected as many of one size, got {real.shape} and {made.shape}")
    found = []
    for start in range(0, len(real), _BATCH):
      pair = [clip[start : start + _BATCH] for clip in (real, made)]
      rest = _BATCH - len(pair[0])  # One shape, which compiles once.
      padded = [np.concatenate([clip, clip[-1:].repeat(rest, 0)]) for clip in pair]
      found.append(np.asarray(distances(self._params, *padded, network=self._network))[: len(pair[0])])
    return np.concatenate(found).astype(np.float64)


def shapes(network: str) -> dict[str, tuple[int, ...]]:
  """Return the shapes of all weights in PyTorch by published name."""
  found, channels, widths = {}, 3, []
  for layer in NETWORKS[network].layers:
    if isinstance(layer, _Conv):
      found[f"features.{layer.number}.weight"] = (layer.channels, channels, layer.kernel, layer.kernel)
      found[f"features.{layer.number}.bias"] = (layer.channels,)
      channels = layer.channels
      widths += [channels] if layer.number in NETWORKS[network].compared else []
  return found | {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(widths)}


def convert(weights: Mapping[str, np.ndarray]) -> tuple[str, Params]:
  """Convert published weights to ours; return which network they are of, too.

  Raises:
    UserError: weights are missing, misshapen or unknown.
  """
  first = weights.get("features.0.weight")
  network = "VGG-16" if first is not None and first.shape[-1:] == (3,) else "AlexNet"
  check_weights(weights, shapes(network), f"{network} and LPIPS's weights of its channels", _UNUSED)
  params = {}
  for name in shapes(network):
    value = np.asarray(weights[name], np.float32)
    params[name] = jnp.asarray(value.transpose(2, 3, 1, 0) if name.startswith("features") and value.ndim == 4 else
                               value.reshape(-1))
  return network, params


@functools.partial(jax.jit, static_argnames="network")
def distances(
    params: Params, real: UInt8[Array, "B height width 3"], made: UInt8[Array, "B height width 3"], *, network: str
) -> Float[Array, "B"]:
  """Return the distances of pairs of frames."""
  total = jnp.zeros(len(real))
  pairs = zip(_features(params, real, network), _features(params, made, network), strict=True)
  for i, (first, second) in enumerate(pairs):
    difference = (first - second) ** 2
    total += jnp.einsum(
        "bhwc,c->b", difference, params[f"lin{i}.model.1.weight"], precision=lax.Precision.HIGHEST) / (
        difference.shape[1] * difference.shape[2])
  return total


def _features(params, frames, network):
  """Return the features of the compared layers, each of length one."""
  x = (2 * frames.astype(jnp.float32) / 255 - 1 - _SHIFT) / _SCALE
  found = []
  for layer in NETWORKS[network].layers:
    if isinstance(layer, _Pool):
      window = (1, layer.kernel, layer.kernel, 1)
      x = lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 2, 2, 1), "VALID")
      continue
    padding = layer.padding, layer.padding
    x = lax.conv_general_dilated(
        x, params[f"features.{layer.number}.weight"], (layer.stride,) * 2, [padding, padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST)
    x = jax.nn.relu(x + params[f"features.{layer.number}.bias"])
    if layer.number in NETWORKS[network].compared:
      found.append(x / (jnp.sqrt((x**2).sum(-1, keepdims=True)) + _EPS))
  return found
