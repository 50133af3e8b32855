"""One training step, compiled once: loss, gradients, update, average.

  grads = ∇ loss(params; batch, keys);  params ← optimizer(params, grads);  ema ← d·ema + (1 − d)·params for each d

Randomness: the step's key is fold_in(key(seed), step), a sample's is fold_in(step key, index), where index is the
sample's place in the stream of records. Invariant: neither the number of hosts, nor devices, nor micro-batches, nor a
restart changes what a sample draws.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from nova_jax.diffusion.batch import Batch, drop_captions
from nova_jax.parallel.sharding import replicated
from nova_jax.train.gather import gathered_weights, like
from nova_jax.train.optimizer import frozen_mask
from nova_jax.train.state import TrainState, shardings_of

Metrics = dict[str, Any]

# (model, batch, keys [B], traced, static) → (loss, values to report); see `Task.loss`.
LossFn = Callable[[nnx.Module, Batch, jax.Array, Any, Hashable], tuple[jax.Array, Metrics]]


def make_train_step(
    graphdef: nnx.GraphDef,
    abstract: TrainState,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    seed: int,
    ema_decay: float,
    first_step: int = 0,
    accumulation: int = 1,
    gather_once: str | None = None,
    caption_dropout: float = 0.0,
    num_classes: int | None = None,
    freeze: Sequence[str] = (),
) -> jax.stages.Wrapped:
  """Compile the step of a stage.

  Args:
    graphdef: of the model.
    abstract: the state's shapes and shardings.
    loss_fn: see `LossFn`.
    tx: the stage's optimizer.
    learning_rate: its schedule, reported among the metrics.
    seed: of the run.
    ema_decay: d above.
    first_step: global step at which the stage starts.
    accumulation: micro-batches that a batch is computed in.
    gather_once: dtype in which all weights are gathered once a step; None gathers them layer by layer.
    caption_dropout: probability that a sample loses its caption or class.
    num_classes: number of classes of a class-conditional model.
    freeze: patterns of parameters that get no gradient.

  Returns:
    step(state, batch, traced, static) → (state, metrics), where `traced` is a pytree of arrays and `static` a constant
    for the loss. The given state is donated. There are as many compilations as constants.
  """
  frozen = frozen_mask(abstract.params, freeze)
  shardings = shardings_of(abstract)
  mesh = shardings.step.mesh

  def loss(params, buffers, batch, keys, traced, static):
    params = jax.tree.map(lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, frozen)
    return loss_fn(nnx.merge(graphdef, params, buffers), batch, keys, traced, static)

  def gradients(state, batch, keys, traced, static):
    grad_fn = jax.value_and_grad(loss, has_aux=True)
    weights = state.params, state.buffers
    if gather_once is not None:
      weights = gathered_weights(graphdef, *weights, gather_once)

    def micro_gradients(batch, keys):
      (_, parts), grads = grad_fn(*weights, batch, keys, traced, static)
      grads = like(grads, state.params)
      # Left to itself, XLA sums whole gradients on each device.
      return parts, jax.lax.with_sharding_constraint(grads, shardings.params)

    if accumulation == 1:
      return micro_gradients(batch, keys)
    micro_batches = jax.tree.map(lambda x: _split(x, accumulation), (batch, keys))
    shapes = jax.eval_shape(micro_gradients, *jax.tree.map(lambda x: x[0], micro_batches))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    add = lambda total, micro: (jax.tree.map(jnp.add, total, micro_gradients(*micro)), None)
    total, _ = jax.lax.scan(add, zeros, micro_batches)
    return jax.tree.map(lambda x: x / accumulation, total)

  def train_step(state: TrainState, batch: Batch, traced: Any, static: Hashable):
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(step_key, index)))(batch.index)
    condition = drop_captions(batch.condition, keys[:, 0], caption_dropout, num_classes)
    batch = batch._replace(condition=condition)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      parts, grads = gradients(state, batch, keys[:, 1], traced, static)
      updates, opt_state = tx.update(grads, state.opt_state, state.params)
    updates = jax.lax.with_sharding_constraint(updates, shardings.params)
    params = optax.apply_updates(state.params, updates)

    def average(decay, old):
      return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p.astype(jnp.float32), old, params)

    ema = average(ema_decay, state.ema)
    emas = {decay: average(float(decay), old) for decay, old in state.emas.items()}
    metrics = parts | {
        "grad_norm": optax.tree.norm(grads),  # Before clipping.
        "learning_rate": learning_rate(state.step - first_step),
    }
    return TrainState(state.step + 1, params, state.buffers, ema, opt_state, emas), metrics

  out_shardings = (shardings, replicated(mesh))
  return jax.jit(train_step, static_argnums=3, donate_argnums=0, out_shardings=out_shardings)


def make_eval_step(graphdef: nnx.GraphDef, abstract: TrainState, loss_fn: LossFn) -> jax.stages.Wrapped:
  """Compile the loss of held-out batches, without gradients.

  Args:
    graphdef: of the model.
    abstract: the state's shapes and shardings.
    loss_fn: see `LossFn`.

  Returns:
    eval_step(weights, buffers, batch, traced, static) → metrics, where `weights` are the state's parameters or their
    average. A sample's key depends on its index alone.
  """
  mesh = abstract.step.sharding.mesh

  def eval_step(weights: Any, buffers: Any, batch: Batch, traced: Any, static: Hashable):
    # A branch that neither a step nor the first weights take, whatever the run's seed.
    root = jax.random.fold_in(jax.random.key(0), 2**32 - 2)
    keys = jax.vmap(lambda index: jax.random.fold_in(root, index))(batch.index)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return loss_fn(nnx.merge(graphdef, weights, buffers), batch, keys, traced, static)[1]

  return jax.jit(eval_step, static_argnums=4, out_shardings=replicated(mesh))


def _split(x: jax.Array, num: int) -> jax.Array:
  """Deal samples out to `num` micro-batches in turn, so that each stays spread over all devices."""
  return jnp.moveaxis(x.reshape(x.shape[0] // num, num, *x.shape[1:]), 1, 0)
