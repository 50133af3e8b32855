"""Weights that are gathered once a step, for all its micro-batches.

By default each layer's weights are gathered from the `fsdp` devices where they are used, in each micro-batch twice.
All weights gathered at once take memory for the whole model in the dtype of its products, and spare the links between
the chips where a step has many micro-batches. Gradients are spread after each micro-batch either way. In
float32 no number changes; in bfloat16 gradients may round otherwise.
"""

from typing import Any

import jax
from flax import nnx

from nova_jax.models.layers import cast_weights
from nova_jax.models.lora import trainable
from nova_jax.parallel.sharding import RULES, constrain


def gathered_weights(graphdef: nnx.GraphDef, params: Any, buffers: Any, dtype: str) -> tuple[Any, Any]:
  """Return parameters and buffers that each `fsdp` device holds in full; weights in the dtype they are used in.

  Args:
    graphdef: of the model.
    params: parameters, as nested dicts.
    buffers: other arrays of the model, among them the weights of one that a LoRA is trained for.
    dtype: dtype of products.
  """
  model = nnx.merge(graphdef, params, buffers)
  model = nnx.merge(*cast_weights(model, dtype))
  _, trained, others = nnx.split(model, trainable(model), ...)

  def whole(_, variable: nnx.Variable):
    axes = variable.get_metadata()["out_sharding"]
    return variable.replace(constrain(variable[...], *(None if RULES[axis] == "fsdp" else axis for axis in axes)))

  trained, others = (nnx.to_pure_dict(nnx.map_state(whole, state)) for state in (trained, others))
  return trained, others


def like(gradients: Any, params: Any) -> Any:
  """Return gradients of gathered weights in the dtypes of the parameters."""
  return jax.tree.map(lambda gradient, param: gradient.astype(param.dtype), gradients, params)
