"""Optimizer and learning-rate schedules of one training stage.

  Muon:   m ← 0.95·m + 0.05·g;  W ← W − lr·(0.2·√max(in, out)·NS₅(nesterov(m)) + decay·W)
  AdamW:  W ← W − lr·(m̂ / (√v̂ + 1e-8) + decay·W)

NS₅ is five Newton-Schulz steps towards the nearest orthogonal matrix (Jordan et al. 2024; the scale of Liu et al.,
arXiv 2502.16982). Decay is decoupled and applies to kernels only: never to biases, norms, tokens or embedding tables.
Invariant: a frozen parameter has neither an update nor optimizer state.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, PartitionSpec
from optax.contrib import MuonDimensionNumbers

from nova_jax.config import OptimizerConfig
from nova_jax.parallel.sharding import current_mesh, spread_spec
from nova_jax.utils.errors import UserError
from nova_jax.utils.patterns import check_patterns, matches
from nova_jax.utils.ranges import check_ranges

# Which matrices Muon updates, and their (input, output) axes. An axis in neither is a batch of independent matrices:
# layers; q, k and v; shift, scale and gate.
MUON_MATRICES: tuple[tuple[str, MuonDimensionNumbers], ...] = (
    (r"blocks/attn/qkv/kernel$", MuonDimensionNumbers(1, (3, 4))),
    (r"blocks/attn/proj/kernel$", MuonDimensionNumbers((1, 2), 3)),
    (r"blocks/(mlp|proj)/fc[12]/kernel$", MuonDimensionNumbers(1, 2)),
    (r"blocks/norm1/proj/kernel$", MuonDimensionNumbers(1, 3)),
    (r"image_decoder/norm/proj/kernel$", MuonDimensionNumbers(0, 2)),
    (r"mixer/lora/kernel$", MuonDimensionNumbers(0, 1)),
    (r"mixer/proj/kernel$", MuonDimensionNumbers(0, 2)),
    (r"time_cond_embed/condition_proj/fc[12]/kernel$", MuonDimensionNumbers(0, 1)),
)
# What AdamW updates beside them: vectors, tables, and matrices at the model's ends. A parameter in neither list is
# refused, so that whoever adds one decides.
ADAMW_BESIDE_MUON: tuple[str, ...] = (
    r"(^|/)(bias|scale)$",
    r"(^|/)low_rank/[ab]$",
    r"(^|/)(mask_token|bos_token|code_embed|begin|label_embed/weight)$",
    r"(^|/)(head|patch_embed/proj|text_embed/proj)/kernel$",
    r"(^|/)(timestep|flow|fps|time|noise)_proj/fc[12]/kernel$",
)


SCHEDULES = ("constant", "cosine", "multistep", "wsd")


def make_schedule(cfg: OptimizerConfig, num_steps: int) -> optax.Schedule:
  """Return the learning rate as a function of the step in a stage of `num_steps` steps, counted from 0.

  Warm-up: step i has (i + 1) / warmup_steps of the rate. After it, cosine falls to `final_fraction` of the rate at the
  last step's end; multi-step multiplies by `gamma` at each milestone, a share of the stage. WSD (warm-up, stable,
  decay) keeps the rate up to `decay_start`, then falls like 1 − √x to `final_fraction` (Hägele et al., arXiv
  2405.18392).

  Raises:
    UserError: an unknown schedule, or numbers that make no sense for it.
  """
  if cfg.schedule not in SCHEDULES:
    raise UserError(f"optimizer.schedule: expected one of {', '.join(SCHEDULES)}, got {cfg.schedule!r}")
  check_ranges(cfg, "optimizer")
  start = decay_start(cfg, num_steps)
  milestones = [round(share * num_steps) for share in cfg.milestones]

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    factor = jnp.minimum(1.0, (step + 1) / max(cfg.warmup_steps, 1))
    if cfg.schedule == "cosine":
      done = jnp.clip((step - cfg.warmup_steps) / max(num_steps - cfg.warmup_steps, 1), 0, 1)
      factor *= cfg.final_fraction + (1 - cfg.final_fraction) * (1 + jnp.cos(jnp.pi * done)) / 2
    elif cfg.schedule == "wsd":
      done = jnp.clip((step - start) / max(num_steps - start, 1), 0, 1)
      factor *= cfg.final_fraction + (1 - cfg.final_fraction) * (1 - jnp.sqrt(done))
    elif cfg.schedule == "multistep":
      factor *= cfg.gamma ** sum((step >= m).astype(jnp.float32) for m in milestones)
    return cfg.learning_rate * factor

  return schedule


def decay_start(cfg: OptimizerConfig, num_steps: int) -> int:
  """Return the step of a stage of `num_steps` steps from which WSD lets the learning rate fall."""
  return round((1 - cfg.decay_fraction) * num_steps)


def make_optimizer(cfg: OptimizerConfig, num_steps: int, freeze: Sequence[str] = ()) -> optax.GradientTransformation:
  """Make the optimizer of a stage.

  Args:
    cfg: names the algorithm and its numbers.
    num_steps: steps of the stage.
    freeze: regular expressions (searched in parameter paths) of what is not trained.

  Raises:
    UserError: an unknown name; or, on `init`, a pattern of `freeze` that matches nothing.
  """
  if cfg.name not in ("adamw", "muon"):
    raise UserError(f'optimizer.name: expected "adamw" or "muon", got {cfg.name!r}')

  def algorithm(path: str, frozen: bool) -> str:
    return "frozen" if frozen else "adamw" if cfg.name == "adamw" else muon_or_adamw(path)

  def algorithms(params):
    return jax.tree.map(algorithm, paths(params), frozen_mask(params, freeze))

  decay = optax.add_decayed_weights(cfg.weight_decay, lambda params: jax.tree.map(_is_kernel, paths(params)))
  axes = lambda params: jax.tree.map(muon_axes, paths(params))
  muon = optax.chain(
      _on_whole_matrices(optax.contrib.scale_by_muon(weight_dimension_numbers=axes)),
      optax.stateless(lambda updates, _: jax.tree.map(_scale_like_adam, paths(updates), updates)),
      decay)
  adamw = optax.chain(optax.scale_by_adam(cfg.b1, cfg.b2), decay)
  return optax.chain(
      optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity(),
      optax.partition({"muon": muon, "adamw": adamw, "frozen": optax.set_to_zero()}, algorithms),
      optax.scale_by_learning_rate(make_schedule(cfg, num_steps)))


def frozen_mask(params: Any, freeze: Sequence[str]) -> Any:
  """Return a pytree like `params` that is True where a pattern of `freeze` is found in the path.

  Raises:
    UserError: a pattern that matches nothing, naming paths near to it.
  """
  check_patterns("train.freeze", freeze, jax.tree.leaves(paths(params)))
  return jax.tree.map(functools.partial(matches, freeze), paths(params))


def paths(tree: Any) -> Any:
  """Return a pytree like `tree` with each leaf's path, "video_encoder/blocks/attn/qkv/kernel"."""
  return jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), tree)


def muon_axes(path: str) -> MuonDimensionNumbers | None:
  """Return the matrix axes of the parameter at `path` if it is one that Muon updates."""
  return next((axes for pattern, axes in MUON_MATRICES if re.search(pattern, path)), None)


def muon_or_adamw(path: str) -> str:
  """Return which of the two updates the parameter at `path`, with `optimizer.name="muon"`.

  Raises:
    UserError: neither of the lists above has it.
  """
  if muon_axes(path):
    return "muon"
  if any(re.search(pattern, path) for pattern in ADAMW_BESIDE_MUON):
    return "adamw"
  raise UserError(f"optimizer.name: the parameter {path} is in neither of Muon's and AdamW's lists; add it to one")


def _on_whole_matrices(muon: optax.GradientTransformation) -> optax.GradientTransformation:
  """Give each device the whole matrices of some layers, so that no product of Newton-Schulz needs the network.

  Replicas do the same. What has no layers, or a number of them that the devices don't divide, is computed by each.
  """

  def update(updates, state, params=None):
    del params  # Muon needs none.
    mesh = current_mesh()
    if mesh is None:
      return muon.update(updates, state)
    specs = jax.tree.map(lambda path, update: _layers_spec(mesh, path, update), paths(updates), updates)
    specs = (specs, jax.tree.map(lambda _: PartitionSpec(), state)._replace(mu=specs))
    return jax.shard_map(muon.update, mesh=mesh, in_specs=specs, out_specs=specs)(updates, state)

  return optax.GradientTransformation(muon.init, update)


def _layers_spec(mesh: AbstractMesh, path: str, update: jax.Array) -> PartitionSpec:
  axes = muon_axes(path)
  assert axes is not None  # Muon updates no others.
  layered = 0 not in np.r_[axes.reduction_axis, axes.output_axis]
  return spread_spec(mesh, update.shape[0]) if layered else PartitionSpec()


def _scale_like_adam(path: str, update: jax.Array) -> jax.Array:
  """Give an orthogonal update the root mean square that Adam's has, so that both live with one learning rate."""
  axes = muon_axes(path)
  assert axes is not None  # Muon updates no others.
  fans = (math.prod(update.shape[i] for i in np.atleast_1d(group)) for group in (axes.reduction_axis, axes.output_axis))
  return 0.2 * math.sqrt(max(fans)) * update


def _is_kernel(path: str) -> bool:
  return path.rsplit("/", 1)[-1] == "kernel"
