"""Basic layers, and stacks of blocks that run in a scan.

Every parameter carries the logical names of its axes (`out_sharding`), which `parallel/sharding.py` maps to a mesh.
Parameters are float32. A layer computes in the dtype of its input, normalisation in float32.
Invariant: N stacked blocks are one block whose parameters have a leading "layers" axis. One `lax.scan` runs them, so
that compile time does not grow with depth.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from nova_jax.parallel.sharding import gather_weight
from nova_jax.utils.derivatives import linear_call

# Names by which rematerialisation policies find values.
BLOCK_INPUT = "block_input"
ATTENTION_RESIDUALS = "attention_residuals"
MLP_WIDENING = 4  # Width of a block's MLP by that of the block.

Axes = tuple[str | None, ...]
Blocks = TypeVar("Blocks", bound=nnx.Module)


class Buffer(nnx.Variable):
  """An array that checkpoints contain and optimizers don't update."""


def parameter(value: jax.Array, axes: Axes, kind: type[nnx.Variable] = nnx.Param) -> nnx.Variable:
  """Return a variable with this value and these logical axis names."""
  assert value.ndim == len(axes), (value.shape, axes)
  return kind(value, out_sharding=axes, eager_sharding=False)


def xavier_uniform(key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
  """Sample from U(−a, a) with a = √(6 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
  bound = math.sqrt(6 / (fan_in + fan_out))
  return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class Linear(nnx.Module):
  """A linear map between groups of axes, with an optional bias.

  Args:
    inputs: sizes of the input's last axes, which are contracted.
    outputs: sizes of the axes that replace them.
    axes: logical names of `inputs + outputs`.
    parts: number of leading output axes that enumerate independent maps (q, k, v; scale, shift, gate); each map is
      initialised on its own.
    zero: initialisation with zeros instead of Xavier's.
  """

  def __init__(
      self, inputs: tuple[int, ...], outputs: tuple[int, ...], axes: Axes, *, parts: int = 0, zero: bool = False,
      use_bias: bool = True, rngs: nnx.Rngs,
  ):
    shape = inputs + outputs
    if zero:
      kernel = jnp.zeros(shape, jnp.float32)
    else:
      kernel = xavier_uniform(rngs.params(), shape, math.prod(inputs), math.prod(outputs[parts:]))
    self.num_inputs = len(inputs)
    self.axes = axes
    self.kernel = parameter(kernel, axes)
    self.bias = parameter(jnp.zeros(outputs, jnp.float32), axes[len(inputs):]) if use_bias else None
    self.kernel_scale: nnx.Variable | None = None  # Scales of a kernel in 8 bits, which `quantization.py` adds.
    self.low_rank: nnx.Module | None = None  # A LoRA, which `models/lora.py` adds.

  def __call__(self, x: Array) -> Array:
    y = project(x, gather_weight(self.kernel[...].astype(x.dtype), self.axes), self.num_inputs)
    if self.kernel_scale is not None:
      y = (y * gather_weight(self.kernel_scale[...], self.axes[self.num_inputs:])).astype(x.dtype)
    if self.low_rank is not None:
      y = y + self.low_rank(x)
    if self.bias is None:
      return y
    return y + gather_weight(self.bias[...].astype(x.dtype), self.axes[self.num_inputs:])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def project(x: Array, kernel: Array, num_inputs: int) -> Array:
  """Contract the last `num_inputs` axes of x with the first `num_inputs` axes of the kernel."""
  return jnp.tensordot(x, kernel, num_inputs)


@functools.partial(project.defjvp, symbolic_zeros=True)
def _project_jvp(num_inputs, primals, tangents):
  (x, kernel), (dx, dkernel) = primals, tangents
  changes = []
  if not isinstance(dx, SymbolicZero):
    changes.append(jnp.tensordot(dx, kernel, num_inputs))
  if not isinstance(dkernel, SymbolicZero):
    apply = lambda x, dkernel: jnp.tensordot(x, dkernel, num_inputs)
    changes.append(linear_call(apply, functools.partial(_kernel_gradient, num_inputs), x, dkernel))
  # A plain product: within `project` again, a policy of rematerialisation would not see that it is one.
  return jnp.tensordot(x, kernel, num_inputs), sum(changes[1:], start=changes[0])


def _kernel_gradient(num_inputs: int, x: Array, dy: Array) -> Array:
  """Contract all axes that x and dy share, which are those that the kernel does not have."""
  num_shared = x.ndim - num_inputs

  def contract(x, dy):
    leading = tuple(range(num_shared))
    return jnp.tensordot(x, dy, (leading, leading))

  def contract_flat(x, dy):
    # XLA's CPU backend transposes a whole activation to contract several axes, but not to contract one.
    inputs, outputs = x.shape[num_shared:], dy.shape[num_shared:]
    size, rows, columns = (math.prod(shape) for shape in (x.shape[:num_shared], inputs, outputs))
    return (x.reshape(size, rows).T @ dy.reshape(size, columns)).reshape(inputs + outputs)

  return jax.lax.platform_dependent(x, dy, cpu=contract_flat, default=contract)


def take_apart(x: Array, axis: int) -> list[Array]:
  """Return the parts along an axis, without it, as `jnp.unstack` does.

  The gradient puts the parts' gradients side by side. XLA would pad each of them with zeros, and add them up.
  """
  select = lambda _, x: jnp.unstack(x, axis=axis)
  return linear_call(select, lambda _, parts: jnp.stack(parts, axis), (), x)


class LayerNorm(nnx.Module):
  """Layer normalisation over the last axis in float32, with eps 1e-5 as in the published model."""

  def __init__(self, dim: int, *, scale: float = 1.0, eps: float = 1e-5):
    self.eps = eps
    self.scale = parameter(jnp.full((dim,), scale, jnp.float32), ("norm",))
    self.bias = parameter(jnp.zeros((dim,), jnp.float32), ("norm",))

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return (normalize(x, self.eps) * self.scale[...] + self.bias[...]).astype(x.dtype)


def normalize(x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
  """Return x with zero mean and unit variance along the last axis, in float32."""
  x = x.astype(jnp.float32)
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


class MLP(nnx.Module):
  """Two linear maps with an activation between them."""

  def __init__(self, dim: int, hidden: int, out: int, activation: Callable[[Array], Array], *, rngs: nnx.Rngs):
    self.activation = activation
    self.fc1 = Linear((dim,), (hidden,), ("embed", "mlp"), rngs=rngs)
    self.fc2 = Linear((hidden,), (out,), ("mlp", "embed"), rngs=rngs)

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
    return self.fc2(self.activation(self.fc1(x)))


def gelu(x: Array) -> Array:
  """Compute the exact GELU; the tanh approximation would change published numbers."""
  if x.dtype != jnp.float32:
    return jax.nn.gelu(x, approximate=False)  # Uses erfc, which keeps digits that 1 + erf loses.
  return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))  # 2.5 times as fast on CPU.


def stack(make_block: Callable[[nnx.Rngs], Blocks], depth: int, rngs: nnx.Rngs) -> Blocks:
  """Create `depth` blocks as one block whose parameters are stacked along a leading "layers" axis."""

  @nnx.vmap(in_axes=0, out_axes=0)
  @nnx.transform_metadata(in_axes=0, out_axes=0, partition="layers")
  def make(rngs):
    return make_block(rngs)

  return make(rngs.split(depth))


def scan(
    blocks: Blocks, x: Array, per_layer: Any, apply: Callable[[Blocks, Array, Any], tuple[Array, Any]],
    remat: str = "none", depth: int | None = None,
):
  """Run stacked blocks one after another.

  Args:
    blocks: result of `stack`.
    x: activations, which pass from block to block.
    per_layer: pytree of arrays with a leading "layers" axis (a KV cache), or None.
    apply: function (block, x, slice of `per_layer`) → (x, output of this layer).
    remat: rematerialisation policy, as in `ModelConfig.remat`.
    depth: number of blocks to run, only without `per_layer`; None for all.

  Returns:
    The activations after the last block, and the stacked outputs of the layers.
  """
  graph, state = nnx.split(blocks)

  def body(x, layer):
    return apply(nnx.merge(graph, layer[0]), checkpoint_name(x, BLOCK_INPUT), layer[1])

  run = body if remat == "none" else jax.checkpoint(body, prevent_cse=False, policy=_remat_policy(remat))
  if depth is None:
    return jax.lax.scan(run, x, (state, per_layer))
  # Parameters are indexed inside the loop, since a slice of the first blocks would be a copy.
  pick = lambda i: jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False), state)
  return jax.lax.scan(lambda x, i: run(x, (pick(i), None)), x, jnp.arange(depth))


def cast_weights(module: nnx.Module, dtype: str) -> tuple[nnx.GraphDef, nnx.State]:
  """Split a module, and cast the weights of its linear maps to the dtype they are used in; no result changes."""
  graph, state = nnx.split(module)
  maps = {path for path, node in nnx.iter_graph(module) if isinstance(node, Linear)}

  def cast(path, weight):
    is_cast = path[:-1] in maps and path[-1] in ("kernel", "bias") and weight[...].dtype.itemsize > 1  # Not of 8 bits.
    return weight.replace(weight[...].astype(dtype)) if is_cast else weight

  return graph, nnx.map_state(cast, state)


def num_layers(blocks: nnx.Module) -> int:
  """Return the number of stacked blocks."""
  return jax.tree.leaves(nnx.state(blocks))[0].shape[0]


def unstack(blocks: Blocks, first: int = 0) -> list[Blocks]:
  """Return stacked blocks as a list, starting with block `first`."""
  graph, state = nnx.split(blocks)
  return [
      nnx.merge(graph, jax.tree.map(operator.itemgetter(i), state)) for i in range(first, num_layers(blocks))]


def _remat_policy(remat: str) -> Callable[..., Any] | None:
  """Return the policy of what the backward pass does not recompute; None saves only the input of a block."""
  policies = jax.checkpoint_policies
  if remat in ("dots", "mlp"):
    attention = policies.save_from_both_policies(policies.save_only_these_names(ATTENTION_RESIDUALS), _is_cudnn)
    products = policies.dots_with_no_batch_dims_saveable if remat == "dots" else _is_narrow_product
    return policies.save_from_both_policies(products, attention)
  if remat == "offload":
    return policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[BLOCK_INPUT],
        offload_src="device", offload_dst="pinned_host")
  return None


def _is_narrow_product(primitive: Any, *arrays: Any, **params: Any) -> bool:
  """Whether an operation is a product without batch axes that does not widen its input as the MLP does."""
  if not jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *arrays, **params):
    return False
  (_, contracted), _ = params["dimension_numbers"]
  inputs = math.prod(arrays[1].shape[axis] for axis in contracted)
  return arrays[1].size < MLP_WIDENING * inputs**2


def _is_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
  """Whether an operation is cuDNN's attention, whose results JAX gives no name."""
  return primitive.name.startswith("dot_product_attention_fwd")
