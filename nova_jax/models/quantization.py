"""Weights of linear maps in 8 bits, each output with a scale of its own: W ≈ q · s.

  int8   q = round(W / s), s = max |W| / 127       fp8   q = W / s as float8_e4m3fn, s = max |W| / 448

The maximum is over the inputs of an output, so that s can be applied to the product: x·W ≈ (x·q) · s. Activations keep
their precision.
Invariant: without quantization nothing changes; with it, shapes and names of other weights stay.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from nova_jax.config import LoraConfig
from nova_jax.models.layers import Buffer, Linear, parameter
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

# What can be quantized, and which matrices of it: those of the stacks of blocks, where nearly all weights are.
TARGETS: Mapping[str, str] = {"blocks": r"blocks/.*kernel$", "text_encoder": r"layers/.*kernel$"}
KINDS: Mapping[str, np.dtype] = {"int8": np.dtype(np.int8), "fp8": np.dtype(ml_dtypes.float8_e4m3fn)}
_LARGEST = {"int8": 127.0, "fp8": 448.0}


class Quantization(NamedTuple):
  """How matrices are quantized.

  Attributes:
    kind: name of the 8-bit numbers, one of `KINDS`.
    pattern: regular expression over the paths of matrices.
  """

  kind: str
  pattern: str

  def axes(self, module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Return the axes of the inputs of each matrix that is quantized, by path."""
    found = {}
    for path, node in nnx.iter_graph(module):
      name = "/".join(map(str, (*path, "kernel")))
      if isinstance(node, Linear) and re.search(self.pattern, name):
        first = len(node.kernel.shape) - len(node.axes)
        found[name] = tuple(range(first, first + node.num_inputs))
    return found

  def prepare(self, module: nnx.Module, make: Callable[[tuple[int, ...], Any], Any] = jax.ShapeDtypeStruct) -> None:
    """Give the linear maps of a module 8-bit kernels and scales, to be filled.

    Args:
      module: module, of arrays or of their shapes.
      make: function (shape, dtype) → what stands for them until then.
    """
    names = self.axes(module)
    for path, node in nnx.iter_graph(module):
      if isinstance(node, Linear) and (axes := names.get("/".join(map(str, (*path, "kernel"))))):
        logical = node.kernel.get_metadata()["out_sharding"]
        kept = [axis for axis in range(len(logical)) if axis not in axes]
        shape = tuple(node.kernel.shape[axis] for axis in kept)
        node.kernel.set_value(make(node.kernel.shape, KINDS[self.kind]))
        axes = tuple(logical[axis] for axis in kept)
        node.kernel_scale = nnx.data(parameter(make(shape, jnp.float32), axes, Buffer))

  def apply(self, kernel: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return a kernel in 8 bits and its scales, given the axes of its inputs."""
    quantized = np.empty(kernel.shape, KINDS[self.kind])
    scales = np.empty([size for axis, size in enumerate(kernel.shape) if axis not in axes], np.float32)
    if axes[0] == 0:
      quantized[...], scales[...] = self._apply(kernel, axes)
    else:  # A stack of layers: one at a time, to save memory.
      for layer in range(len(kernel)):
        quantized[layer], scales[layer] = self._apply(kernel[layer], tuple(axis - 1 for axis in axes))
    return quantized, scales

  def _apply(self, kernel: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    kernel = kernel.astype(np.float32)
    scales = np.abs(kernel).max(axes, keepdims=True) / np.float32(_LARGEST[self.kind])
    scaled = kernel / np.where(scales > 0, scales, 1)
    scaled = np.rint(scaled) if self.kind == "int8" else scaled
    return scaled.astype(KINDS[self.kind]), scales.squeeze(axes)


def read_quantize(texts: Mapping[str, str] | None, field: str = "quantize") -> dict[str, Quantization]:
  """Return the quantization of each part.

  Args:
    texts: kinds by the names of parts, such as {"text_encoder": "int8"}.
    field: setting that errors name.

  Raises:
    UserError: an unknown name.
  """
  found = {}
  for part, kind in (texts or {}).items():
    if part not in TARGETS:
      raise UserError(f"{field}: {part!r} can't be quantized{did_you_mean(part, TARGETS)}")
    if kind not in KINDS:
      raise UserError(f"{field}: {kind!r} is not a kind of numbers{did_you_mean(kind, KINDS)}")
    found[part] = Quantization(kind, TARGETS[part])
  return found


def frozen_quantization(cfg: LoraConfig) -> Quantization | None:
  """Return how the model that a LoRA is trained for is quantized; None for not. Raises as `read_quantize` does."""
  if not cfg.rank or not cfg.quantize:
    return None
  return read_quantize({"blocks": cfg.quantize}, "train.lora.quantize")["blocks"]
