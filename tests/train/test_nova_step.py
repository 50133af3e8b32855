"""The real transformer's training step: the same numbers on one device and on a mesh, compiled once."""

import jax
import numpy as np
import pytest
from flax import nnx

from models.test_nova import TINY
from nova_jax.config import Experiment, MeshConfig, OptimizerConfig, TrainConfig
from nova_jax.models.nova import NOVA
from nova_jax.sharding import batch_sharding, make_mesh
from nova_jax.train.loop import make_loss
from nova_jax.train.optimizer import make_optimizer, make_schedule
from nova_jax.train.state import abstract_state, init_state
from nova_jax.train.step import make_train_step

STEPS, BATCH, FRAMES, SEED = 3, 8, 3, 5
MESHES = {
    "one": (MeshConfig(fsdp=1), 1), "2x4": (MeshConfig(data=2, fsdp=4), 8), "2x2x2": (MeshConfig(2, 2, 2), 8)}


def experiment(accumulation=1):
  return Experiment(
      model=TINY, train=TrainConfig(loss_repeat=2, accumulation=accumulation),
      optimizer=OptimizerConfig(name="muon", learning_rate=1e-3, warmup_steps=2))


def batch(step):
  rng = np.random.default_rng(step)
  return {
      "latents": rng.standard_normal((BATCH, FRAMES, *TINY.latent_size, TINY.latent_dim), np.float32),
      "text_embeds": rng.standard_normal((BATCH, TINY.text_len, TINY.text_dim), np.float32),
      "text_lengths": rng.integers(0, TINY.text_len + 1, BATCH).astype(np.int32),
      "index": (step * BATCH + np.arange(BATCH)).astype(np.int32)}


def train(mesh_cfg, num_devices, accumulation=1):
  """Return metrics of each step, gradients of the first, the last parameters, and how often the step was compiled."""
  exp = experiment(accumulation)
  mesh = make_mesh(mesh_cfg, jax.devices()[:num_devices])
  tx = make_optimizer(exp.optimizer, STEPS, ())
  make_model = lambda rngs: NOVA(exp.model, rngs=rngs)
  graph, abstract = abstract_state(make_model, tx, mesh)
  state = init_state(make_model, tx, abstract, SEED)
  loss_fn = make_loss(exp, FRAMES)
  put = lambda step: {name: jax.device_put(value, batch_sharding(mesh)) for name, value in batch(step).items()}
  keys = jax.random.split(jax.random.key(0), BATCH)
  gradients = jax.jit(jax.grad(lambda params: loss_fn(
      nnx.merge(graph, params, state.buffers), put(0), keys, 4, np.int32(3))[0]))(state.params)
  step = make_train_step(
      graph, abstract, loss_fn, tx, make_schedule(exp.optimizer, STEPS), seed=SEED, ema_decay=0.9,
      accumulation=accumulation, caption_dropout=0.3)
  gradients, metrics = jax.device_get(gradients), []
  for i in range(STEPS):
    state, values = step(state, put(i), np.int32(i + 1), 4)
    metrics.append({name: float(value) for name, value in values.items()})
  return metrics, gradients, jax.device_get((state.params, state.ema)), step._cache_size()


@pytest.fixture(scope="module")
def one_device():
  return train(*MESHES["one"])


def assert_close(actual, expected, rtol):
  """Compare trees, each leaf on the scale of its largest value (and not below a thousandth of the largest of all)."""
  floor = 1e-3 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
    error = np.abs(a - b).max() / max(np.abs(b).max(), floor)
    assert error <= rtol, f"{jax.tree_util.keystr(path)}: relative error {error:.1e}"


@pytest.mark.parametrize("mesh, accumulation", [("2x4", 1), ("2x2x2", 1), ("one", 2)])
def test_numbers_do_not_depend_on_mesh_or_accumulation(one_device, mesh, accumulation):
  metrics, gradients, weights, compilations = train(*MESHES[mesh], accumulation)
  for ours, expected in zip(metrics, one_device[0], strict=True):
    assert ours == pytest.approx(expected, rel=1e-5)
  assert_close(gradients, one_device[1], 1e-5)
  # Newton-Schulz iterations amplify rounding differences of the gradients.
  assert_close(weights, one_device[2], 1e-4)
  assert compilations == 1


def test_training_changes_what_it_should(one_device):
  metrics, _, (params, ema), compilations = one_device
  assert compilations == 1
  assert len({values["loss"] for values in metrics}) == STEPS
  moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(ema))]
  assert max(moved) > 0
