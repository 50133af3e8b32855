"""Weights that a step gathers once: whole, in the dtype of products, and with the gradients of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train.toy_run import Toy

from nova_jax.config import LoraConfig, MeshConfig
from nova_jax.models.lora import add_lora, trainable
from nova_jax.parallel.sharding import make_mesh, state_shardings
from nova_jax.train.gather import gathered_weights, like


@pytest.mark.parametrize("lora", [False, True])
def test_each_fsdp_device_holds_all_weights_of_its_tensor_part(lora):
  """Also those that a LoRA leaves as they are, which are nearly all."""
  mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
  model = Toy(rngs=nnx.Rngs(0))
  if lora:
    add_lora(model, LoraConfig(rank=2, targets=("proj/",)), "float32", rngs=nnx.Rngs(1))
  graph, *states = nnx.split(model, trainable(model), ...)
  states = [nnx.to_pure_dict(jax.device_put(state, state_shardings(mesh, state))) for state in states]

  def gather(*states):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return gathered_weights(graph, *states, "bfloat16")

  gathered = jax.jit(gather)(*states)
  assert jax.tree.structure(gathered) == jax.tree.structure(tuple(states))
  kernels = 0
  for (path, before), after in zip(
      jax.tree_util.tree_leaves_with_path(states), jax.tree.leaves(gathered), strict=True):
    used = {axis for axis in after.sharding.spec if axis}
    assert used == {axis for axis in before.sharding.spec if axis} - {"fsdp"}, path
    is_weight = path[-1].key in ("kernel", "bias")
    assert after.dtype == (jnp.bfloat16 if is_weight else before.dtype), path
    np.testing.assert_array_equal(after, before.astype(after.dtype))
    kernels += "fsdp" in before.sharding.spec
  assert kernels >= 3


def test_gradients_get_the_dtypes_of_the_parameters():
  gradients = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
  assert {leaf.dtype.name for leaf in jax.tree.leaves(like(gradients, {"a": jnp.ones(2), "b": jnp.ones(2)}))} == {
      "float32"}
