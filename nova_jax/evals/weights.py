"""Published weights of the networks whose features judge pictures and clips.

They are read by the names that PyTorch gives them, held to the list of a network, and its normalisations, which have
fixed statistics, are folded into the convolutions before them.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import SafetensorError
from safetensors.numpy import load_file

NORM = ("weight", "bias", "running_mean", "running_var")
_EPS = 1e-3  # Of batch normalisation, in TensorFlow's Inceptions.


def read_weights(path: str | Path, network: str) -> Mapping[str, np.ndarray]:
  """Read weights in safetensors, or in PyTorch's file (which needs `pip install -e .[torch]`).

  Raises:
    ValueError: the file can't be read.
  """
  path = Path(path)
  if not path.is_file():
    raise ValueError(f"{path} does not exist; expected weights of {network}")
  if path.suffix == ".safetensors":
    try:
      return load_file(path)
    except SafetensorError as error:
      raise ValueError(f"{path} is not safetensors: {error}") from None
  try:
    import torch
  except ImportError:
    raise ValueError(f"{path} needs PyTorch: pip install -e .[torch], or save the weights as safetensors") from None
  try:
    weights = torch.load(path, map_location="cpu", weights_only=True)
  except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
    raise ValueError(f"{path} is not a file of PyTorch weights: {error}") from None
  return {name: weight.numpy() for name, weight in weights.items()}


def check_weights(
    weights: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], network: str, unused: tuple[str, ...] = ()
) -> None:
  """Check that weights are those wanted; others may begin with `unused`, or count the batches of training.

  Raises:
    ValueError: weights are missing, misshapen or unknown.
  """
  wrong = [
      f"{name} {'missing' if name not in weights else f'of shape {tuple(weights[name].shape)}, expected {shape}'}"
      for name, shape in wanted.items() if name not in weights or tuple(weights[name].shape) != shape]
  unknown = [
      name for name in weights
      if name not in wanted and not name.startswith(unused) and not name.endswith("num_batches_tracked")]
  if wrong or unknown:
    raise ValueError(
        f"expected {network}; {len(wrong)} weights don't fit: {', '.join(wrong[:3])}"
        + (f"; unknown: {', '.join(unknown[:3])}" if unknown else ""))


def fold_norm(
    kernel: Float[np.ndarray, "out in *window"], weights: Mapping[str, np.ndarray], norm: str
) -> tuple[Float[Array, "*window in out"], Float[Array, " out"]]:
  """Return the kernel and bias of a convolution with the normalisation `norm` after it."""
  scale, bias, mean, variance = (np.asarray(weights[f"{norm}.{key}"], np.float64) for key in NORM)
  scale = scale / np.sqrt(variance + _EPS)
  kernel = np.moveaxis(np.asarray(kernel, np.float64), (0, 1), (-1, -2)) * scale
  return jnp.asarray(kernel, jnp.float32), jnp.asarray(bias - mean * scale, jnp.float32)
