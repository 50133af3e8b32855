"""Networks with random weights, biases and norms included."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def fill(make: Callable[[], nnx.Module]) -> nnx.Module:
  """Return the network that `make` builds with small normal weights, without initialising it."""
  network, rng = nnx.eval_shape(make), np.random.default_rng(0)
  draw = lambda leaf: jnp.asarray(0.1 * rng.standard_normal(leaf.shape, np.float32))
  nnx.update(network, jax.tree.map(draw, nnx.state(network)))
  return network
