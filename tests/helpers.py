"""Models for tests without a hundred small programs: an eager constructor compiles one for each shape it draws."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nova_jax.config import ModelConfig
from nova_jax.models.nova import NOVA


def fields(batch):
  """Return the arrays of a batch and of its condition by name."""
  values = batch._asdict() | batch.condition._asdict()
  return {name: value for name, value in values.items() if name != "condition" and value is not None}


def make(cfg: ModelConfig, seed: int = 0) -> NOVA:
  """Make a model, by NumPy, in which nothing is zero, so that every path carries a signal."""
  graph, state = nnx.split(nnx.eval_shape(lambda: NOVA(cfg, rngs=nnx.Rngs(0))))
  rng = np.random.default_rng(seed)

  def fill(path, shape):
    name = path[-2].key if isinstance(path[-1], jax.tree_util.GetAttrKey) else path[-1].key
    width = max(shape.shape[:-1]) ** -0.5 if name == "kernel" else 0.1
    return jnp.asarray(((name == "scale") + width * rng.standard_normal(shape.shape)).astype(shape.dtype))

  return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))
