"""What training carries from step to step: a plain pytree of arrays.

Parameters are nested dicts (`nnx.to_pure_dict`), named by their module paths; the module itself is only a graph
definition, which `nnx.merge` fills inside the compiled step.
Invariant: a state's shapes and shardings are known before any array exists (`abstract_state`); a fresh state and a
restored one are placed alike, so the step function compiles once.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from nova_jax.models.lora import trainable
from nova_jax.parallel.sharding import replicated, state_shardings
from nova_jax.train.optimizer import paths


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything a step reads and replaces. The averages are float32 and shaped like the parameters."""

  step: Any  # int32: steps done, over all stages.
  params: Any
  buffers: Any  # Arrays that no optimizer touches, among them the parameters of a model that a LoRA is trained for.
  ema: Any
  opt_state: Any
  emas: Any = dataclasses.field(default_factory=dict)  # Further averages, by decay: {"0.999": …}.


def abstract_state(
    make_model: Callable[[nnx.Rngs], nnx.Module], tx: optax.GradientTransformation, mesh: Mesh,
    ema_decays: Sequence[float] = (),
) -> tuple[nnx.GraphDef, TrainState]:
  """Return the graph definition, and a state of `ShapeDtypeStruct` with shardings.

  Args:
    make_model: function that creates the model.
    tx: optimizer.
    mesh: devices of the run.
    ema_decays: decays of further averages.
  """
  model = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
  graphdef, params, buffers = nnx.split(model, trainable(model), ...)

  def place(variables):
    shapes = nnx.to_pure_dict(variables)
    shardings = jax.tree.leaves(state_shardings(mesh, variables))
    return jax.tree.map(_struct, shapes, jax.tree.unflatten(jax.tree.structure(shapes), shardings))

  params, buffers = place(params), place(buffers)
  by_path = {path: leaf.sharding for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

  def place_like_parameter(path, leaf):
    # Moments are trees like the parameters, so the end of a moment's path is the path of its parameter.
    tails = (path[start:] for start in range(len(path)))
    return _struct(leaf, next((by_path[tail] for tail in tails if tail in by_path), replicated(mesh)))

  average = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32, sharding=p.sharding), params)
  return graphdef, TrainState(
      step=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh)),
      params=params,
      buffers=buffers,
      ema=average,
      opt_state=jax.tree_util.tree_map_with_path(place_like_parameter, jax.eval_shape(tx.init, params)),
      emas={str(decay): average for decay in ema_decays})


def init_state(
    make_model: Callable[[nnx.Rngs], nnx.Module], tx: optax.GradientTransformation, abstract: TrainState, seed: int
) -> TrainState:
  """Initialise a model and its optimizer, each array on its own devices from the start."""

  def init():
    # A branch of the seed that no step takes: steps count up from 0.
    key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)
    model = make_model(nnx.Rngs(key))
    _, params, buffers = nnx.split(model, trainable(model), ...)
    params = nnx.to_pure_dict(params)
    ema = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    emas = dict.fromkeys(abstract.emas, ema)
    return TrainState(jnp.int32(0), params, nnx.to_pure_dict(buffers), ema, tx.init(params), emas)

  return jax.jit(init, out_shardings=shardings_of(abstract))()


def adopt(state: TrainState, weights: nnx.State) -> TrainState:
  """Return the state with the weights of another model of the same shapes, where its averages start too.

  Args:
    state: state whose arrays, or their shapes and shardings, are replaced; a LoRA, which `weights` lacks, stays.
    weights: parameters and buffers of the other model.
  """
  given = {"/".join(map(str, path)): variable[...] for path, variable in nnx.to_flat_state(weights)}
  missing = set(given)

  def place(tree):
    return jax.tree.map(spread, paths(tree), tree)

  def spread(path, old):  # Every host has all of the weights, and gives its own devices their part.
    missing.discard(path)
    if path not in given:
      return old
    whole = np.asarray(given[path]).astype(old.dtype)
    return jax.make_array_from_callback(old.shape, old.sharding, lambda index: whole[index])

  # Averages need arrays of their own: a step gives its old ones away.
  average = lambda old: jax.tree.map(jnp.copy, place(old))
  adopted = dataclasses.replace(
      state, params=place(state.params), ema=average(state.ema), buffers=place(state.buffers),
      emas={decay: average(old) for decay, old in state.emas.items()})
  assert not missing, missing
  return adopted


def start_stage(state: TrainState, tx: optax.GradientTransformation, abstract: TrainState) -> TrainState:
  """Return the state with a fresh optimizer; weights and their average carry on."""
  opt_state = jax.jit(tx.init, out_shardings=shardings_of(abstract).opt_state)(state.params)
  return dataclasses.replace(state, opt_state=opt_state)


def shardings_of(abstract: TrainState) -> TrainState:
  """Return the shardings of an abstract state."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _struct(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
