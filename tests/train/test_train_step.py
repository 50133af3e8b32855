import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nova_jax.config import MeshConfig, OptimizerConfig
from nova_jax.diffusion.batch import Batch, drop_captions
from nova_jax.models.condition import Condition
from nova_jax.models.layers import MLP, Buffer, Linear, parameter
from nova_jax.parallel.sharding import batch_sharding, make_mesh
from nova_jax.train.optimizer import frozen_mask, make_optimizer, make_schedule
from nova_jax.train.state import abstract_state, init_state
from nova_jax.train.step import make_train_step

ONE = MeshConfig(1, 1, 1)
ADAMW, MUON = OptimizerConfig(learning_rate=1e-2), OptimizerConfig(name="muon", learning_rate=1e-2)


class Toy(nnx.Module):
  """A stand-in for NOVA that compiles in a second: a matrix for Muon, an MLP for AdamW and a buffer."""

  def __init__(self, rngs):
    self.mixer = nnx.Dict(proj=Linear((16,), (2, 16), ("embed", None, "mlp"), rngs=rngs))
    self.time_proj = MLP(16, 32, 16, jax.nn.silu, rngs=rngs)
    self.null = parameter(jnp.ones(16), ("embed",), Buffer)

  def __call__(self, x, length):
    x = jnp.where(length[:, None] > 0, x, self.null[...])
    return self.time_proj(x + self.mixer["proj"](x).sum(1))


def toy_loss(model, batch, keys, num_visible, padded_size):
  noise = jax.vmap(lambda key: jax.random.normal(key, (padded_size, 16)))(keys)
  noise = jnp.where(jnp.arange(padded_size)[:, None] < num_visible, noise, 0).sum(1)
  loss = jnp.square(model(batch.latents, batch.condition.text_lengths) - noise).mean()
  return loss, {"loss": loss}


def make_batch(mesh, batch=8):
  rng = np.random.default_rng(0)
  arrays = Batch(
      rng.normal(size=(batch, 16)).astype(np.float32),
      Condition(text_lengths=rng.integers(1, 5, batch, dtype=np.int32)),
      index=np.arange(100, 100 + batch, dtype=np.int32))
  return jax.device_put(arrays, batch_sharding(mesh))


@functools.cache
def build(mesh_cfg=ONE, optimizer=ADAMW, **options):
  mesh = make_mesh(mesh_cfg, jax.devices()[: mesh_cfg.data * mesh_cfg.fsdp * mesh_cfg.tensor])
  tx = make_optimizer(optimizer, 10, options.get("freeze", ()))
  graphdef, abstract = abstract_state(Toy, tx, mesh)
  options = {"seed": 0, "ema_decay": 0.9} | options
  step = make_train_step(graphdef, abstract, toy_loss, tx, make_schedule(optimizer, 10), **options)
  return mesh, lambda: init_state(Toy, tx, abstract, 0), step


def run(num_steps=1, **options):
  mesh, init, step = build(**options)
  state = init()
  for i in range(num_steps):
    state, metrics = step(state, make_batch(mesh), np.int32(3 + i % 2), 5)
  return jax.device_get(state), jax.device_get(metrics), step


def close(a, b, rtol=1e-4, atol=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("mesh", [ONE, MeshConfig(2, 2, 1)])
def test_accumulation_equals_the_full_batch(mesh):
  whole, metrics, _ = run(optimizer=MUON, mesh_cfg=mesh)
  parts, metrics_parts, _ = run(optimizer=MUON, mesh_cfg=mesh, accumulation=2)
  close(metrics, metrics_parts)
  close(whole, parts)


@pytest.mark.parametrize("sizes", [(2, 4, 1), (2, 2, 2)])
def test_a_mesh_equals_one_device(sizes):
  one, metrics, _ = run(3, optimizer=MUON)
  many, metrics_many, _ = run(3, optimizer=MUON, mesh_cfg=MeshConfig(*sizes))
  close(metrics, metrics_many)
  close(one, many, rtol=1e-3, atol=1e-5)


def test_one_compilation_whatever_the_visible_count():
  _, _, step = run(4, mesh_cfg=MeshConfig(2, 4, 1), optimizer=MUON)
  assert step._cache_size() == 1


def test_average_is_float32_and_follows_the_updated_weights():
  before = jax.device_get(build()[1]().ema)
  state, _, _ = run()
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.ema))
  close(state.ema, jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, before, state.params))


def test_frozen_parameters_stay_and_count_in_no_norm():
  before = jax.device_get(build()[1]().params)
  state, metrics, _ = run(freeze=("mixer",))
  same = jax.tree.map(np.array_equal, before, state.params)
  assert same == frozen_mask(before, ("mixer",))
  assert 0 < metrics["grad_norm"] < run()[1]["grad_norm"]


def test_a_sample_draws_the_same_in_any_order():
  mesh, init, step = build(caption_dropout=0.5)
  batch, order = make_batch(mesh), np.random.default_rng(1).permutation(8)
  _, metrics = step(init(), batch, np.int32(3), 5)
  _, shuffled = step(init(), jax.tree.map(lambda x: x[order], batch), np.int32(3), 5)
  close(metrics, shuffled)
  _, others = step(init(), batch._replace(index=batch.index + 1), np.int32(3), 5)
  assert abs(others["loss"] - metrics["loss"]) > 1e-3


def test_captions_are_dropped_at_their_rate():
  keys = jax.random.split(jax.random.key(0), 4000)
  lengths = drop_captions(Condition(text_lengths=jnp.full(4000, 3)), keys, 0.1, None).text_lengths
  assert set(np.unique(lengths)) == {0, 3} and abs(np.mean(lengths == 0) - 0.1) < 0.015
  labels = drop_captions(Condition(labels=jnp.full(4000, 3)), keys, 0.1, 10).labels
  assert set(np.unique(labels)) == {3, 10}


def test_optimizer_state_is_sharded_like_its_parameters():
  _, init, _ = build(mesh_cfg=MeshConfig(1, 4, 2), optimizer=MUON)
  state = init()
  for path in ("mixer/proj/kernel", "time_proj/fc1/kernel"):
    find = lambda tree: [leaf.sharding for p, leaf in jax.tree_util.tree_leaves_with_path(tree)
                         if jax.tree_util.keystr(p, simple=True, separator="/").endswith(path)]
    (kernel,), moments = find(state.params), find(state.opt_state)
    assert moments and all(m == kernel for m in moments) and not kernel.is_fully_replicated


def test_state_is_a_plain_pytree():
  state = build()[1]()
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
  assert dataclasses.replace(state, step=jnp.int32(7)).step == 7
