"""The programs of a training run: the one place that builds them, to run them here or to compile them for elsewhere.

Invariant: all stages and shapes of batches share one abstract state, so a step of any of them takes what any other
returned; each has a program of its own, which is compiled once for each static input.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from nova_jax.config import Experiment
from nova_jax.diffusion.batch import Batch
from nova_jax.models.lora import trainable
from nova_jax.train.optimizer import make_optimizer, make_schedule, paths
from nova_jax.train.stages import Stage, plan_stages
from nova_jax.train.state import TrainState, abstract_state, adopt, init_state, start_stage
from nova_jax.train.step import Metrics, make_eval_step, make_train_step
from nova_jax.train.task import Task


class TrainStep(NamedTuple):
  """The training step of a stage, for batches of one shape.

  Attributes:
    task: task for this shape.
    run: compiled function (state, batch, traced, static) → (state, metrics); the given state is donated. `run.lower`
      takes the same arguments, or their shapes.
  """

  task: Task
  run: jax.stages.Wrapped

  def __call__(self, state: TrainState, batch: Batch, traced: Any, static: Hashable) -> tuple[TrainState, Metrics]:
    return self.run(state, batch, traced, static)


class EvalStep(NamedTuple):
  """The loss of held-out batches of one shape.

  Attributes:
    task: task for this shape.
    run: compiled function (weights, buffers, batch, traced, static) → metrics.
  """

  task: Task
  run: jax.stages.Wrapped

  def __call__(self, weights: Any, buffers: Any, batch: Batch, traced: Any, static: Hashable) -> Metrics:
    return self.run(weights, buffers, batch, traced, static)


class TrainProgram:
  """The state and the steps of a run.

  Attributes:
    stages: stages of the run.
    abstract: shapes and shardings of the state.
    is_lora: whether a LoRA is trained. The model that it changes is not part of a checkpoint.
    steps: the steps that were built, by stage and shape.
    eval_steps: the evaluations that were built, by shape.
  """

  def __init__(self, task: Task, cfg: Experiment, mesh: Mesh):
    self.stages = plan_stages(cfg.train)
    self._task, self._cfg = task, cfg
    # The optimizer's state has the same structure in all stages.
    self._graphdef, self.abstract = abstract_state(
        task.init, self._optimizer(self.stages[0]), mesh, cfg.train.ema_decays)
    self.is_lora = trainable(nnx.merge(self._graphdef, self.abstract.params, self.abstract.buffers)) is nnx.LoRAParam
    self.steps: dict[tuple[Stage, tuple[int, ...]], TrainStep] = {}
    self.eval_steps: dict[tuple[int, ...], EvalStep] = {}

  @property
  def model_name(self) -> str:
    """Name of what is trained: the model's class, or a LoRA and its share of the model's parameters."""
    name = type(self.average(self.abstract)).__name__
    if not self.is_lora:
      return name
    size, frozen = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (
        self.abstract.params, self.abstract.buffers))
    return f"LoRA ({100 * size / (size + frozen):.2g} % of {name}'s parameters)"

  def init_state(self) -> TrainState:
    """Create the state before the first step, with random weights."""
    return init_state(self._task.init, self._optimizer(self.stages[0]), self.abstract, self._cfg.seed)

  def saved(self, state: TrainState) -> TrainState:
    """Return what a checkpoint holds of a state, or of its shapes."""
    return dataclasses.replace(state, buffers={}) if self.is_lora else state

  def continued(self, saved: TrainState, weights: nnx.State | None) -> TrainState:
    """Return the state of which a checkpoint holds `saved`.

    Args:
      saved: see the method `saved`.
      weights: weights of the model that a LoRA changes; None without a LoRA.
    """
    if not self.is_lora:
      return saved
    assert weights is not None  # `check` refuses a LoRA without `init`.
    trained = set(jax.tree.leaves(paths(saved.params)))
    frozen = {path: value for path, value in nnx.to_flat_state(weights) if "/".join(map(str, path)) not in trained}
    return adopt(dataclasses.replace(saved, buffers=self.abstract.buffers), nnx.from_flat_state(frozen))

  def start_stage(self, state: TrainState, stage: Stage) -> TrainState:
    """Return the state at the start of a stage: the weights continue, the optimizer is new."""
    return start_stage(state, self._optimizer(stage), self.abstract)

  def step(self, stage: Stage, shape: tuple[int, ...]) -> TrainStep:
    """Return a stage's step for latents [B, *shape]."""
    if (stage, shape) not in self.steps:
      self.steps[stage, shape] = self._make_step(stage, self._task.for_shape(shape))
    return self.steps[stage, shape]

  def eval_step(self, shape: tuple[int, ...]) -> EvalStep:
    """Return the evaluation of latents [B, *shape]."""
    if shape not in self.eval_steps:
      task = self._task.for_shape(shape)
      self.eval_steps[shape] = EvalStep(task, make_eval_step(_graphdef(task), self.abstract, task.eval_loss))
    return self.eval_steps[shape]

  def average(self, state: TrainState) -> nnx.Module:
    """Return the model with averaged weights."""
    return nnx.merge(self._graphdef, state.ema, state.buffers)

  def _make_step(self, stage: Stage, task: Task) -> TrainStep:
    cfg, train = self._cfg, self._cfg.train
    return TrainStep(task, make_train_step(
        _graphdef(task), self.abstract, task.loss, self._optimizer(stage),
        make_schedule(cfg.optimizer, stage.last - stage.first), seed=cfg.seed, ema_decay=train.ema_decay,
        first_step=stage.first, accumulation=train.accumulation,
        gather_once=cfg.model.dtype if train.gather_once else None, caption_dropout=train.caption_dropout,
        num_classes=cfg.model.num_classes, freeze=train.freeze))

  def _optimizer(self, stage: Stage) -> optax.GradientTransformation:
    return make_optimizer(self._cfg.optimizer, stage.last - stage.first, self._cfg.train.freeze)


def _graphdef(task: Task) -> nnx.GraphDef:
  return nnx.split(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))))[0]
