"""LoRA: low-rank updates of the matrices of a trained model, which itself stays as it is (Hu et al., arXiv 2106.09685).

  y = x·W + (alpha / r)·(x·A)·B        A [inputs, r], B [r, outputs]

A starts from random values and B from zeros, so that a new LoRA changes nothing. A stack of blocks has stacked updates,
one for each layer. Parameters that `LoraConfig.full` names are trained themselves.
Invariant: a model with a LoRA has the parameters of the model without it, at the same paths; what training changes are
the `LoRAParam`s.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from nova_jax.config import LoraConfig
from nova_jax.models.layers import Axes, Linear, parameter, project
from nova_jax.models.quantization import frozen_quantization
from nova_jax.parallel.sharding import gather_weight
from nova_jax.utils.errors import UserError
from nova_jax.utils.patterns import check_patterns, matches

# Maps that are convolutions in published models, where a LoRA of a linear map has no place.
CONVOLUTIONS = (r"patch_embed/proj/kernel$",)


class LowRank(nnx.Module):
  """The update of a linear map.

  Attributes:
    a: matrix A, whose first axes are the map's inputs; in a stack of blocks, layers come before them.
    b: matrix B, whose last axes are the map's outputs; layers come before the rank.
    scale: factor alpha / r.
    axes: logical names of the map's axes, without layers.
    num_inputs: number of these that are inputs.
  """

  def __init__(self, linear: Linear, rank: int, scale: float, *, rngs: nnx.Rngs):
    self.scale, self.axes, self.num_inputs = scale, linear.axes, linear.num_inputs
    shape = linear.kernel.shape
    num_layers = len(shape) - len(linear.axes)
    ends = num_layers + linear.num_inputs
    layers, inputs, outputs = shape[:num_layers], shape[num_layers:ends], shape[ends:]
    stacked: Axes = ("layers",) * num_layers
    bound = math.prod(inputs) ** -0.5
    a = jax.random.uniform(rngs.params(), (*layers, *inputs, rank), jnp.float32, -bound, bound)
    self.a = parameter(a, (*stacked, *self._axes_of_a), nnx.LoRAParam)
    self.b = parameter(
        jnp.zeros((*layers, rank, *outputs), jnp.float32), (*stacked, *self._axes_of_b), nnx.LoRAParam)

  @property
  def _axes_of_a(self) -> Axes:
    return (*self.axes[: self.num_inputs], "rank")

  @property
  def _axes_of_b(self) -> Axes:
    return ("rank", *self.axes[self.num_inputs :])

  def __call__(self, x: Array) -> Array:
    """Return what is added to the map's output for the input x."""
    hidden = project(x, gather_weight(self.a[...].astype(x.dtype), self._axes_of_a), self.num_inputs)
    return project(hidden, gather_weight(self.b[...].astype(x.dtype), self._axes_of_b), 1) * self.scale


def add_lora(model: nnx.Module, cfg: LoraConfig, dtype: str, *, rngs: nnx.Rngs) -> None:
  """Add a LoRA to a model, and store the weights of its linear maps in the dtype that they are used in.

  Args:
    model: model to extend; its parameters are named by their paths.
    cfg: rank, scale, targets, and the parameters that are trained themselves.
    dtype: dtype of activations. Weights that are cast once give the same results as if they were cast in each use.
    rngs: randomness of the new matrices.

  Raises:
    UserError: a pattern of `targets` that is found in no path of a matrix, or one of `full` in no path of a parameter;
      a matrix that is to be trained itself and kept in 8 bits.
  """
  _train_in_full(model, cfg)
  linears = linear_maps(model)
  check_patterns("train.lora.targets", cfg.targets, list(linears), "matrix")
  for path, linear in linears.items():
    if matches(cfg.targets, path) and not isinstance(linear.kernel, nnx.LoRAParam):
      linear.low_rank = nnx.data(LowRank(linear, cfg.rank, cfg.scale, rngs=rngs))
  for _, linear in nnx.iter_graph(model):
    if isinstance(linear, Linear):
      for weight in filter(None, (linear.kernel, linear.bias)):
        if not isinstance(weight, nnx.LoRAParam):
          weight.set_value(weight[...].astype(dtype))


def _train_in_full(model: nnx.Module, cfg: LoraConfig) -> None:
  """Turn the parameters that `cfg.full` names into `LoRAParam`s."""
  owners = {
      "/".join(map(str, (*path, name))): (node, name) for path, node in nnx.iter_graph(model)
      if isinstance(node, nnx.Module) for name, value in vars(node).items() if isinstance(value, nnx.Param)}
  check_patterns("train.lora.full", cfg.full, list(owners))
  quantization = frozen_quantization(cfg)
  in_8_bits = {} if quantization is None else quantization.axes(model)
  for path, (node, name) in owners.items():
    if matches(cfg.full, path):
      if path in in_8_bits:
        raise UserError(f"train.lora.full: {path} is kept in 8 bits, which can't be trained; leave one of the two out")
      frozen = getattr(node, name)
      setattr(node, name, parameter(frozen[...], frozen.get_metadata()["out_sharding"], nnx.LoRAParam))


def linear_maps(model: nnx.Module) -> dict[str, Linear]:
  """Return the linear maps that a LoRA can have, by the paths of their matrices: all that are no convolutions."""
  maps = {
      "/".join(map(str, (*path, "kernel"))): node for path, node in nnx.iter_graph(model) if isinstance(node, Linear)}
  return {path: maps[path] for path in sorted(maps) if not matches(CONVOLUTIONS, path)}


def trainable(model: nnx.Module) -> type[nnx.Param]:
  """Return the type of the parameters that training changes: those of the LoRA if the model has one, or else all."""
  found = any(isinstance(variable, nnx.LoRAParam) for _, variable in nnx.to_flat_state(nnx.state(model)))
  return nnx.LoRAParam if found else nnx.Param
