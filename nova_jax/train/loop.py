"""The training loop: stages, each of which samples, saves, and takes step after step.

Order within the loop: sample → save → next batch → step → log. Step n is dispatched, and its batch on its way to the
devices, before the metrics of step n − 1 are fetched, so the device never waits for the host. Batches of each shape
have a program of their own. Invariant: a run that is killed and started again computes the same numbers, bit for bit,
as one that is not; no checkpoint is written whose loss or gradient is not finite. All processes make the same
decisions, and process 0 alone writes logs and pictures.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from nova_jax.autoencoders import Autoencoder
from nova_jax.checkpoints.model_card import card_of, write_card
from nova_jax.checkpoints.model_folder import load_autoencoder, load_text_encoder, load_transformer
from nova_jax.checkpoints.store import Checkpointer, finished_steps
from nova_jax.config import Experiment, ModelConfig
from nova_jax.data.loader import Loader
from nova_jax.data.rows import local_rows, spread
from nova_jax.data.sources import CacheData, known_words, needs_text_encoder, open_caches, open_digits
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.loss import sample_training_noise, training_loss
from nova_jax.models.nova import NOVA
from nova_jax.parallel.processes import all_gather, broadcast_from_first, exchange_host_names, first_alone, is_first
from nova_jax.parallel.sharding import batch_sharding, make_mesh
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.loading import describe
from nova_jax.pipeline.prompts import naming
from nova_jax.text import TextEncoder
from nova_jax.train.check import check
from nova_jax.train.flops import matmul_peak, train_flops
from nova_jax.train.masking import draw_num_visible, padded_sizes
from nova_jax.train.metrics import MetricLog
from nova_jax.train.optimizer import make_optimizer, make_schedule
from nova_jax.train.restart import notes, own_damaged, way_back
from nova_jax.train.samples import NUM_CLIPS, write_grid
from nova_jax.train.stages import Stage, plan_stages
from nova_jax.train.state import abstract_state, adopt, init_state, start_stage
from nova_jax.train.step import LossFn, make_train_step
from nova_jax.train.stop import StopRequest
from nova_jax.train.trace import Trace
from nova_jax.train.workdir import claim
from nova_jax.utils.terminal import command, say

_VERSIONED = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def make_loss(experiment: Experiment, num_frames: int) -> LossFn:
  """Return the loss of a stage whose clips have `num_frames` latent frames."""
  scheduler = make_scheduler(experiment.scheduler)

  def loss_fn(model, batch, keys, padded_size, num_visible):
    noise = sample_training_noise(
        keys, experiment.model, scheduler, num_frames, padded_size, experiment.train.loss_repeat)
    return training_loss(model, scheduler, batch, noise, num_visible)

  return loss_fn


def train(experiment: Experiment, workdir: str | Path, profile: tuple[int, int] | None = None) -> None:
  """Train in `workdir`, from its newest checkpoint if it has one, to the last step or until asked to stop.

  Args:
    experiment: what to train.
    workdir: the run's folder, which all processes see.
    profile: first and last step of those that are profiled.

  Raises:
    ValueError: an experiment that can't run, or a workdir of another one.
    FloatingPointError: the loss or the gradient is not finite; the message names the step and the last good checkpoint.
  """
  plan_stages(experiment.train)
  exchange_host_names()
  workdir = Path(workdir)
  with naming("autoencoder"):
    autoencoder = load_autoencoder(experiment.autoencoder)
  with naming("text_encoder"):
    needed = needs_text_encoder(experiment)
    text_encoder = load_text_encoder(experiment.text_encoder, experiment.model) if needed else None
  caches = open_caches(experiment, autoencoder, text_encoder)
  check(experiment, make_mesh(experiment.mesh), autoencoder, caches)
  fresh = broadcast_from_first(not finished_steps(workdir / "checkpoints"))
  with naming("init"):
    init = load_transformer(experiment.init, experiment.model) if experiment.init and fresh else None
  with contextlib.ExitStack() as stack:
    with first_alone("workdir"):
      if is_first():
        stack.enter_context(claim(workdir, experiment))
        write_card(workdir, card_of(experiment, known_words(experiment)))
        for line in notes(experiment, caches) if fresh else ():
          say(f"note: {line}")
    stop = stack.enter_context(StopRequest())
    _Run(experiment, workdir, stop, autoencoder, text_encoder, caches, init, profile).run()


class Program(NamedTuple):
  """What batches of one shape are trained with, in one stage."""

  step: Callable
  model: ModelConfig
  num_frames: int


class _Run:
  """One process's part of a run; `state` and `step` move on, the rest stays."""

  def __init__(
      self, experiment: Experiment, workdir: Path, stop: StopRequest, autoencoder: Autoencoder,
      text_encoder: TextEncoder | None, caches: CacheData | None, init: nnx.State | None,
      profile: tuple[int, int] | None,
  ):
    self.experiment, self.cfg, self.workdir, self.stop = experiment, experiment.train, workdir, stop
    self.autoencoder, self.text_encoder = autoencoder, text_encoder
    self.stages = plan_stages(self.cfg)
    self.mesh = make_mesh(experiment.mesh)
    self.sharding = batch_sharding(self.mesh)
    with first_alone("dataset"):
      self.data = caches or open_digits(experiment, workdir, autoencoder, text_encoder)
    # The optimizer's state has the same structure in all stages.
    self.graphdef, self.abstract = abstract_state(self._make_model, self._optimizer(self.stages[0]), self.mesh)
    self.checkpoints = Checkpointer(workdir / "checkpoints", self.cfg.keep)
    self.trace = Trace(profile, workdir / "profile")
    self.pending: tuple[int, str, Any] | None = None
    self.seen_shapes: set[tuple[str, Program, int]] = set()
    self._resume(init)

  def _resume(self, init: nnx.State | None) -> None:
    """Set state, step, data position and log to where the newest checkpoint ends, or to the start."""
    # 1. Put the arrays of the newest checkpoint that is whole onto today's mesh; half-written ones are gone already.
    found = self.checkpoints.restore_newest(self.abstract)
    # 2. Or make them.
    if found is None:
      step, data, meta = 0, None, {"sums": {}}
      self.state = init_state(self._make_model, self._optimizer(self.stages[0]), self.abstract, self.experiment.seed)
      if init is not None:
        self.state = adopt(self.state, init)
    else:
      step, self.state, data, meta, set_aside = found
      for line in set_aside:
        _say(f"note: {line}")
      _say(f"continuing after step {step}")
      changed = [name for name, version in meta["versions"].items() if version != importlib.metadata.version(name)]
      if changed:
        _say(f"note: other versions of {', '.join(changed)} began this run; last bits may differ")
    self.step = self.first_step = step
    # 3. Keep the loader's position, for the stage that the step is in.
    self.data_state = data
    # 4. Continue the log: lines after the step are cut, sums of the unfinished line return.
    self.log = MetricLog(
        self.workdir, log_every=self.cfg.log_every, num_steps=self.cfg.steps, first_step=step, sums=meta["sums"],
        peak=matmul_peak(self.experiment.model.dtype) if is_first() else math.inf, enabled=is_first())

  def run(self) -> None:
    """Run all stages that are left."""
    try:
      stages = (stage for stage in self.stages if stage.first <= self.step < stage.last)
      stopped = not all(self._run_stage(stage) for stage in stages)
    finally:
      self.trace.close()
      self.checkpoints.close()
      self.log.close()
    # Only now is the last checkpoint on the disk.
    if stopped:
      _say(f"stopped by {self.stop.cause} after step {self.step}; the same command continues")
    else:
      _say(f"done: {self.cfg.steps} steps, checkpoints in {self.checkpoints.directory}")
      what = "--label 0" if self.experiment.model.num_classes else '--prompt "what to show"'
      _say(f"next: {command('sample')} --checkpoint {self.workdir} --output out {what}")

  def _run_stage(self, stage: Stage) -> bool:
    """Run a stage to its end; return False if asked to stop before."""
    tx, schedule = self._optimizer(stage), make_schedule(self.experiment.optimizer, stage.last - stage.first)

    @functools.cache
    def program(num_frames: int, size: tuple[int, int]) -> Program:
      """Return what batches of one bucket are trained with; positions alone tell its model from others."""
      experiment = dataclasses.replace(
          self.experiment, model=dataclasses.replace(self.experiment.model, latent_size=size))
      step = make_train_step(
          self._graphdef(experiment.model), self.abstract, make_loss(experiment, num_frames), tx, schedule,
          seed=experiment.seed, ema_decay=self.cfg.ema_decay, first_step=stage.first,
          accumulation=self.cfg.accumulation, caption_dropout=self.cfg.caption_dropout,
          no_class=experiment.model.num_classes, freeze=self.cfg.freeze)
      return Program(step, experiment.model, num_frames)

    what = describe(self.state.params, self.experiment.model.dtype)
    _say(f"stage {stage.cfg.name}, to step {stage.last}: {what}; programs compile before its first step")
    rows = local_rows(self.sharding, stage.cfg.batch_size)
    loader = self._loader(stage, rows)
    if self.step == stage.first:
      self.log.start_stage()
      self.state = start_stage(self.state, tx, self.abstract)
    else:
      loader.set_state(self.data_state["position"], own_damaged(self.data_state.get("damaged", ())))
    try:
      return self._loop(stage, program, loader, rows)
    finally:
      loader.close()

  def _loop(self, stage: Stage, programs: Callable[..., Program], loader: Loader, rows: list[int]) -> bool:
    while True:
      self._sample(stage)
      stopping = self.stop.reached(self.step, self.checkpoints)
      finished = self.step == self.cfg.steps
      if stopping or finished or self.step % self.cfg.save_every == 0:
        self._save(loader)
      if stopping or self.step == stage.last:
        self._settle()
        return not stopping or finished
      self.trace.before(self.step + 1)
      started = time.perf_counter()
      batch = spread(self.sharding, stage.cfg.batch_size, rows, next(loader))
      waited = time.perf_counter() - started
      program = programs(batch["latents"].shape[1], batch["latents"].shape[2:4])
      num_tokens = program.model.num_image_tokens
      num_visible = draw_num_visible(self.experiment.seed, self.step, num_tokens, self.cfg.mask_ratio)
      sizes = padded_sizes(num_tokens, self.cfg.mask_ratio, self.cfg.visible_sizes)
      padded_size = next(size for size in sizes if size >= num_visible)
      self.state, metrics = program.step(self.state, batch, np.int32(num_visible), padded_size)
      if loader.damaged:
        metrics |= {"damaged_records": len(loader.damaged)}
      self._settle()
      self.step += 1
      self.pending = (self.step, stage.cfg.name, metrics)
      self.trace.after(self.step, (self.state, metrics))
      self._clock(stage, program, padded_size, time.perf_counter() - started, waited, num_visible)

  def _sample(self, stage: Stage) -> None:
    if not self.cfg.sample_every or self.step in (self.first_step, stage.first):
      return
    if self.step % self.cfg.sample_every == 0 or self.step == self.cfg.steps:
      model = nnx.merge(self.graphdef, self.state.ema, self.state.buffers)
      pipe = Pipeline(
          card_of(self.experiment, known_words(self.experiment)), model, self.text_encoder, self.autoencoder)
      path = self.workdir / f"samples/step_{self.step:06}.png"
      num_frames = self.autoencoder.num_frames(stage.cfg.num_frames)
      write_grid(path, pipe, self.data.examples(stage.cfg, NUM_CLIPS), self.experiment.seed, num_frames)

  def _save(self, loader: Loader) -> None:
    self._settle()  # Never save what a step that failed has left.
    if self.step == self.first_step:
      return
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    meta = {"sums": self.log.state(), "versions": versions}
    damaged = all_gather(loader.damaged)
    data = {"position": loader.get_state()} | ({"damaged": damaged} if any(damaged) else {})
    self.checkpoints.save(self.step, self.state, data, meta)

  def _settle(self) -> None:
    """Fetch and log the metrics of the last step, if that is still to be done.

    Raises:
      FloatingPointError: they are not finite.
    """
    if self.pending is None:
      return
    (step, stage, metrics), self.pending = self.pending, None
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
      self.checkpoints.wait()
      way = way_back(self.checkpoints.directory, self.first_step)
      raise FloatingPointError(f"step {step}: {bad[0]} is {metrics[bad[0]]}; {way}")
    self.log.add(step, stage, metrics)

  def _clock(
      self, stage: Stage, program: Program, padded_size: int, seconds: float, waited: float, num_visible: int
  ) -> None:
    """Count the step's time, unless it went into compiling."""
    shape, batch_size = (stage.cfg.name, program, padded_size), stage.cfg.batch_size
    if shape in self.seen_shapes:
      flops = train_flops(program.model, batch_size, program.num_frames, num_visible, self.cfg.loss_repeat)
      self.log.clock(seconds, waited, batch_size, flops)
    self.seen_shapes.add(shape)

  def _loader(self, stage: Stage, rows: list[int]) -> Loader:
    experiment = self.experiment
    return Loader(
        self.data.feed(stage.cfg), batch_size=stage.cfg.batch_size, rows=rows,
        num_workers=experiment.data.num_workers, max_damaged=experiment.data.max_damaged)

  def _optimizer(self, stage: Stage) -> optax.GradientTransformation:
    return make_optimizer(self.experiment.optimizer, stage.last - stage.first, self.cfg.freeze)

  def _graphdef(self, model: ModelConfig) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: NOVA(model, rngs=nnx.Rngs(0))))[0]

  def _make_model(self, rngs: nnx.Rngs) -> NOVA:
    return NOVA(self.experiment.model, rngs=rngs)


def _say(text: str) -> None:
  if is_first():
    say(text)
