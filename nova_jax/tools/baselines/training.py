"""Trains a rival of NOVA on the moving digits with the parts that NOVA is trained with.

Stages, data, captions dropped, optimizer, average, checkpoints and log are those of an `Experiment`; the model and its
loss are the paradigm's. One process. Invariant: a run that is killed continues from its newest checkpoint with the
numbers that it would have had.
"""

import contextlib
import dataclasses
import math
import time
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key

from nova_jax.checkpoints.model_folder import load_autoencoder, load_text_encoder
from nova_jax.checkpoints.store import Checkpointer
from nova_jax.config import Experiment
from nova_jax.data.loader import Feed, Loader
from nova_jax.data.sources import open_digits
from nova_jax.models.nova import Condition
from nova_jax.parallel.sharding import batch_sharding, make_mesh
from nova_jax.sampling.temporal import Model
from nova_jax.train.flops import matmul_peak
from nova_jax.train.metrics import MetricLog
from nova_jax.train.optimizer import make_optimizer, make_schedule
from nova_jax.train.stages import Stage, plan_stages
from nova_jax.train.state import TrainState, abstract_state, init_state, start_stage
from nova_jax.train.step import Metrics, make_train_step
from nova_jax.train.workdir import claim
from nova_jax.utils.terminal import say


class Paradigm(Protocol):
  """A rival of NOVA."""

  def make_model(self, rngs: nnx.Rngs) -> nnx.Module:
    """Make the model; it has `cfg`."""

  def draw_visible(self, seed: int, step: int) -> tuple[int, int]:
    """Return how many tokens of a sample are visible in a step, and the size that they are padded to."""

  def loss(
      self, model: nnx.Module, batch: Condition, keys: Key[Array, "B"], padded_size: int, num_visible: Array
  ) -> tuple[Array, Metrics]:
    """Return the loss of a batch; a `LossFn`."""

  def forward_flops(self, num_frames: int) -> float:
    """Return the operations of one sample's forward pass in training."""

  def generate(
      self, model: Model, condition: Condition, keys: Key[Array, "B"], num_frames: int, guidance_scale: float
  ) -> Float[Array, "B T h w C"]:
    """Generate latents of clips."""


def step_flops(paradigm: Paradigm, batch_size: int, num_frames: int) -> float:
  """Return the operations of a training step: three times the forward pass, as for NOVA."""
  return 3 * batch_size * paradigm.forward_flops(num_frames)


def train_rival(paradigm: Paradigm, experiment: Experiment, workdir: Path) -> nnx.Module:
  """Train in `workdir`, from its newest checkpoint if it has one; return the model with averaged weights.

  Args:
    paradigm: what to train.
    experiment: how; of the model's sizes only those of text and latents count.
    workdir: the run's folder.

  Raises:
    ValueError: the workdir is of another experiment.
    FloatingPointError: the loss or the gradient is not finite.
  """
  cfg, mesh, stages = experiment.train, make_mesh(experiment.mesh), plan_stages(experiment.train)
  tx = _optimizer(experiment, stages[0])
  graphdef, abstract = abstract_state(paradigm.make_model, tx, mesh)
  with contextlib.ExitStack() as stack:
    stack.enter_context(claim(workdir, experiment))
    text_encoder = load_text_encoder(experiment.text_encoder, experiment.model)
    data = open_digits(experiment, workdir, load_autoencoder(experiment.autoencoder), text_encoder)
    checkpoints = stack.enter_context(contextlib.closing(Checkpointer(workdir / "checkpoints", cfg.keep)))
    step, sums, found = 0, {}, checkpoints.restore_newest(abstract)
    if found is not None:
      step, state, sums = found.step, found.state, found.meta["sums"]
      for line in found.set_aside:
        say(f"note: {line}")
    else:
      state = init_state(paradigm.make_model, tx, abstract, experiment.seed)
    log = stack.enter_context(contextlib.closing(MetricLog(
        workdir, log_every=cfg.log_every, num_steps=cfg.steps, first_step=step, sums=sums,
        peak=matmul_peak(experiment.model.dtype))))
    for stage in stages:
      if stage.first <= step < stage.last:
        feed = data.feed(stage.cfg)
        state = _run_stage(paradigm, experiment, graphdef, abstract, stage, state, step, feed, checkpoints, log)
        step = stage.last
  return nnx.merge(graphdef, state.ema, state.buffers)


def _run_stage(
    paradigm: Paradigm, experiment: Experiment, graphdef: nnx.GraphDef, abstract: TrainState, stage: Stage,
    state: TrainState, first: int, feed: Feed, checkpoints: Checkpointer, log: MetricLog,
) -> TrainState:
  """Run the steps of a stage from step `first` on."""
  cfg, batch_size, sharding = experiment.train, stage.cfg.batch_size, batch_sharding(abstract.step.sharding.mesh)
  tx, schedule = _optimizer(experiment, stage), make_schedule(experiment.optimizer, stage.last - stage.first)
  if first == stage.first:
    log.start_stage()
    state = start_stage(state, tx, abstract)
  train_step = make_train_step(
      graphdef, abstract, paradigm.loss, tx, schedule, seed=experiment.seed, ema_decay=cfg.ema_decay,
      first_step=stage.first, caption_dropout=cfg.caption_dropout)
  flops = step_flops(paradigm, batch_size, stage.cfg.num_frames)
  with contextlib.closing(Loader(feed, batch_size=batch_size, num_workers=experiment.data.num_workers)) as loader:
    loader.set_state((first - stage.first) * batch_size)
    for step in range(first + 1, stage.last + 1):
      started = time.perf_counter()
      batch = jax.device_put(next(loader), sharding)
      waited = time.perf_counter() - started
      num_visible, padded_size = paradigm.draw_visible(experiment.seed, step - 1)
      state, metrics = train_step(state, batch, np.int32(num_visible), padded_size)
      metrics = _finite(step, jax.device_get(metrics))
      if step > first + 1:  # The first one compiles.
        log.clock(time.perf_counter() - started, waited, batch_size, flops)
      log.add(step, stage.cfg.name, metrics)
      if step % cfg.save_every == 0 or step == cfg.steps:
        checkpoints.save(step, state, {}, {"sums": log.state()})
  return state


def _optimizer(experiment: Experiment, stage: Stage) -> optax.GradientTransformation:
  return make_optimizer(experiment.optimizer, stage.last - stage.first)


def _finite(step: int, metrics: Metrics) -> dict[str, float]:
  """Return metrics as numbers, if they are finite."""
  values = {name: float(value) for name, value in metrics.items()}
  for name, value in values.items():
    if not math.isfinite(value):
      raise FloatingPointError(f"step {step}: {name} is {value}")
  return values


def equal_compute(paradigm: Paradigm, experiment: Experiment, flops: float) -> Experiment:
  """Return the experiment with as many steps as cost nearest to `flops`."""
  mean = sum(
      stage.share * step_flops(paradigm, stage.batch_size, stage.num_frames) for stage in experiment.train.stages)
  mean /= sum(stage.share for stage in experiment.train.stages)
  return dataclasses.replace(
      experiment, train=dataclasses.replace(experiment.train, steps=max(1, round(flops / mean))))


def total_flops(paradigm: Paradigm, experiment: Experiment) -> float:
  """Return the operations of a training."""
  return sum(
      (stage.last - stage.first) * step_flops(paradigm, stage.cfg.batch_size, stage.cfg.num_frames)
      for stage in plan_stages(experiment.train))
