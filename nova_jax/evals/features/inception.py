"""InceptionV3 as used by FID: maps pictures to 2048 features, with weights provided by the user.

The network of "Rethinking the Inception Architecture for Computer Vision" (Szegedy et al., 2016), in the form of
TensorFlow's FID graph: average pools exclude padding, and the last block takes a maximum instead. The weights are
`pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, or a safetensors file with the same names. torchvision's weights
give other numbers than the published FID. The file's classifier, if there is one, is for the Inception Score.
Invariant: features of a picture do not depend on the other pictures of a batch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from nova_jax.evals.features.networks import Conv, Mixed, Network, Params, Pool, apply, fold, published_shapes, scaled

DIM = 2048
SIDE = 299  # Side in pixels that pictures are scaled to.
_KERNEL = "conv.weight"
_CLASSES = "fc.weight"
_UNUSED = ("fc.", "AuxLogits.")  # Prefixes of the classifiers' weights.

_HALVE = Pool((3, 3), (2, 2), "VALID")
_MEAN, _MAXIMUM = Pool((3, 3), (1, 1), mean=True), Pool((3, 3), (1, 1))


def _conv(name: str, channels: int, *kernel: int) -> Conv:
  return Conv(name, channels, kernel, (1, 1))


def _shrink(name: str, channels: int, stride: int = 2) -> Conv:
  return Conv(name, channels, (3, 3), (stride, stride), "VALID")


def _a(name: str, pool: int) -> Mixed:
  return Mixed((
      (_conv(f"{name}.branch1x1", 64, 1, 1),),
      (_conv(f"{name}.branch5x5_1", 48, 1, 1), _conv(f"{name}.branch5x5_2", 64, 5, 5)),
      (_conv(f"{name}.branch3x3dbl_1", 64, 1, 1), _conv(f"{name}.branch3x3dbl_2", 96, 3, 3),
       _conv(f"{name}.branch3x3dbl_3", 96, 3, 3)),
      (_MEAN, _conv(f"{name}.branch_pool", pool, 1, 1))))


def _b(name: str) -> Mixed:
  return Mixed((
      (_shrink(f"{name}.branch3x3", 384),),
      (_conv(f"{name}.branch3x3dbl_1", 64, 1, 1), _conv(f"{name}.branch3x3dbl_2", 96, 3, 3),
       _shrink(f"{name}.branch3x3dbl_3", 96)),
      (_HALVE,)))


def _c(name: str, channels: int) -> Mixed:
  return Mixed((
      (_conv(f"{name}.branch1x1", 192, 1, 1),),
      (_conv(f"{name}.branch7x7_1", channels, 1, 1), _conv(f"{name}.branch7x7_2", channels, 1, 7),
       _conv(f"{name}.branch7x7_3", 192, 7, 1)),
      (_conv(f"{name}.branch7x7dbl_1", channels, 1, 1), _conv(f"{name}.branch7x7dbl_2", channels, 7, 1),
       _conv(f"{name}.branch7x7dbl_3", channels, 1, 7), _conv(f"{name}.branch7x7dbl_4", channels, 7, 1),
       _conv(f"{name}.branch7x7dbl_5", 192, 1, 7)),
      (_MEAN, _conv(f"{name}.branch_pool", 192, 1, 1))))


def _d(name: str) -> Mixed:
  return Mixed((
      (_conv(f"{name}.branch3x3_1", 192, 1, 1), _shrink(f"{name}.branch3x3_2", 320)),
      (_conv(f"{name}.branch7x7x3_1", 192, 1, 1), _conv(f"{name}.branch7x7x3_2", 192, 1, 7),
       _conv(f"{name}.branch7x7x3_3", 192, 7, 1), _shrink(f"{name}.branch7x7x3_4", 192)),
      (_HALVE,)))


def _e(name: str, pool: Pool) -> Mixed:
  fork = lambda branch: Mixed((
      (_conv(f"{name}.{branch}a", 384, 1, 3),), (_conv(f"{name}.{branch}b", 384, 3, 1),)))
  return Mixed((
      (_conv(f"{name}.branch1x1", 320, 1, 1),),
      (_conv(f"{name}.branch3x3_1", 384, 1, 1), fork("branch3x3_2")),
      (_conv(f"{name}.branch3x3dbl_1", 448, 1, 1), _conv(f"{name}.branch3x3dbl_2", 384, 3, 3),
       fork("branch3x3dbl_3")),
      (pool, _conv(f"{name}.branch_pool", 192, 1, 1))))


LAYERS = (
    _shrink("Conv2d_1a_3x3", 32), _shrink("Conv2d_2a_3x3", 32, 1), _conv("Conv2d_2b_3x3", 64, 3, 3), _HALVE,
    _conv("Conv2d_3b_1x1", 80, 1, 1), _shrink("Conv2d_4a_3x3", 192, 1), _HALVE,
    _a("Mixed_5b", 32), _a("Mixed_5c", 64), _a("Mixed_5d", 64), _b("Mixed_6a"), _c("Mixed_6b", 128),
    _c("Mixed_6c", 160), _c("Mixed_6d", 160), _c("Mixed_6e", 192), _d("Mixed_7a"), _e("Mixed_7b", _MEAN),
    _e("Mixed_7c", _MAXIMUM))


def shapes() -> dict[str, tuple[int, ...]]:
  """Return the shapes of all weights in PyTorch by published name."""
  return published_shapes(LAYERS, _KERNEL)


def convert(weights: Mapping[str, np.ndarray]) -> Params:
  """Convert published weights to ours; those of the classifiers are ignored.

  Raises:
    UserError: weights are missing, misshapen or unknown.
  """
  return fold(weights, LAYERS, _KERNEL, shapes(), "pytorch-fid's InceptionV3", _UNUSED)


class Inception(Network):
  """A feature function for pictures and frames of videos; see `evals/features/extract.py`."""

  dim, published, convert = DIM, "InceptionV3, such as pytorch-fid's", staticmethod(convert)

  def __init__(self, params: Params, classes: Float[np.ndarray, "classes 2048"] | None = None):
    super().__init__(params)
    self._classes = classes

  @classmethod
  def load(cls, path: str | Path) -> Self:
    weights = cls.read(path)
    classes = weights.get(_CLASSES)
    return cls(convert(weights), classes if classes is not None and classes.shape[1:] == (DIM,) else None)

  def __call__(self, clips: UInt8[np.ndarray, "B T height width 3"]) -> Float[np.ndarray, "B*T 2048"]:
    """Return the features of each frame."""
    return np.asarray(_scaled_features(self._params, clips.reshape(-1, *clips.shape[2:])))

  def logits(self, features: Float[np.ndarray, "n 2048"]) -> Float[np.ndarray, "n classes"] | None:
    """Return the logits of features, without a bias as the Inception Score takes them; None without a classifier."""
    return None if self._classes is None else features @ self._classes.T.astype(features.dtype)


@jax.jit
def features(params: Params, x: Float[Array, "B height width 3"]) -> Float[Array, "B 2048"]:
  """Return features of pictures in [−1, 1] with sides of at least 75 pixels."""
  return apply(params, LAYERS, x).mean((1, 2))


@jax.jit
def _scaled_features(params, pictures):
  return features(params, scaled(pictures, SIDE))
