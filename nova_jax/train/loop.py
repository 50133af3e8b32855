"""The training loop: stages, each of which samples, saves, and takes step after step.

Order within the loop: sample → save → next batch → step → log. Step n is dispatched before the metrics of step n − 1
are fetched, so the device never waits for the host. Invariant: a run that is killed and started again computes the
same numbers, bit for bit, as one that is not; no checkpoint is written whose loss or gradient is not finite.
"""

import contextlib
import dataclasses
import importlib.metadata
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from nova_jax.autoencoders import Autoencoder
from nova_jax.card import card_of, write_card
from nova_jax.checkpoint import Checkpointer, finished_steps
from nova_jax.config import Experiment, StageConfig, TrainConfig
from nova_jax.convert.folders import load_autoencoder, load_text_encoder, load_transformer
from nova_jax.data import moving_digits
from nova_jax.data.loader import Loader
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.loss import draw, training_loss
from nova_jax.models.nova import NOVA
from nova_jax.pipeline import Pipeline
from nova_jax.sharding import batch_sharding, make_mesh
from nova_jax.text import TextEncoder
from nova_jax.train.check import check
from nova_jax.train.flops import matmul_peak, train_flops
from nova_jax.train.masking import draw_num_visible, padded_sizes
from nova_jax.train.metrics import MetricLog
from nova_jax.train.optimizer import make_optimizer, make_schedule
from nova_jax.train.samples import write_grid
from nova_jax.train.state import abstract_state, adopt, init_state, start_stage
from nova_jax.train.step import LossFn, make_train_step
from nova_jax.train.workdir import claim

_VERSIONED = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage's place in the run: global steps `first` to `last`, the latter excluded."""

  cfg: StageConfig
  first: int
  last: int


def plan_stages(cfg: TrainConfig) -> tuple[Stage, ...]:
  """Divide the steps among the stages, in proportion to their shares.

  Raises:
    ValueError: numbers that make no run.
  """
  for name in ("steps", "accumulation", "loss_repeat", "log_every", "save_every", "keep"):
    if getattr(cfg, name) < 1:
      raise ValueError(f"train.{name}: expected 1 or more, got {getattr(cfg, name)}")
  if not cfg.stages or any(stage.share < 0 for stage in cfg.stages) or not sum(stage.share for stage in cfg.stages):
    raise ValueError(f"train.stages: expected at least one stage with a positive share, got {cfg.stages}")
  for stage in cfg.stages:
    if stage.batch_size < 1 or stage.num_frames < 1:
      raise ValueError(f"train.stages: expected a positive batch_size and num_frames, got {stage}")
    if stage.batch_size % cfg.accumulation:
      raise ValueError(
          f"train.accumulation: {cfg.accumulation} micro-batches don't divide"
          f" batch_size={stage.batch_size} of stage {stage.name!r}")
  ends = np.cumsum([stage.share for stage in cfg.stages])
  ends = [round(cfg.steps * end / ends[-1]) for end in ends.tolist()]
  return tuple(Stage(stage, first, last) for stage, first, last in zip(cfg.stages, [0, *ends], ends))


def make_loss(experiment: Experiment, num_frames: int) -> LossFn:
  """Return the loss of a stage whose clips have `num_frames` latent frames."""
  scheduler = make_scheduler(experiment.scheduler)

  def loss_fn(model, batch, keys, padded_size, num_visible):
    draws = draw(keys, experiment.model, scheduler, num_frames, padded_size, experiment.train.loss_repeat)
    return training_loss(model, scheduler, batch, draws, num_visible)

  return loss_fn


def open_data(experiment: Experiment, workdir: Path) -> Mapping[str, Sequence[Mapping[str, Any]]]:
  """Open the dataset of an experiment, writing it first if need be: records by split."""
  if experiment.data.name != "moving_digits":
    raise ValueError(f'data.name: expected "moving_digits", got {experiment.data.name!r}')
  return moving_digits.prepare(experiment.data.data_dir or workdir / "data", experiment.data)


def train(experiment: Experiment, workdir: str | Path) -> None:
  """Train in `workdir`, from its newest checkpoint if it has one, to the last step or until asked to stop.

  Raises:
    ValueError: an experiment that can't run, or a workdir of another one.
    FloatingPointError: the loss or the gradient is not finite; the message names the step and the last good checkpoint.
  """
  plan_stages(experiment.train)
  autoencoder = load_autoencoder(experiment.autoencoder)
  text_encoder = load_text_encoder(experiment.text_encoder, experiment.model)
  check(experiment, make_mesh(experiment.mesh), autoencoder)
  fresh = not finished_steps(Path(workdir) / "checkpoints")
  init = load_transformer(experiment.init, experiment.model) if experiment.init and fresh else None
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(claim(Path(workdir), experiment))
      write_card(workdir, card_of(experiment))
    stop = stack.enter_context(StopRequest())
    _Run(experiment, Path(workdir), stop, autoencoder, text_encoder, init).run()


class StopRequest:
  """Notes the first SIGTERM or SIGINT instead of obeying it; a second one acts as usual.

  With several hosts the signal is left to JAX, whose hosts agree on a step to stop at.
  """

  def __enter__(self) -> "StopRequest":
    self.name: str | None = None
    self._previous = {}
    if jax.process_count() == 1:
      self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, number: int, _) -> None:
    self.name = signal.Signals(number).name
    signal.signal(number, self._previous[number])


class _Run:
  """One process's part of a run; `state` and `step` move on, the rest stays."""

  def __init__(
      self, experiment: Experiment, workdir: Path, stop: StopRequest, autoencoder: Autoencoder,
      text_encoder: TextEncoder | None, init: nnx.State | None,
  ):
    self.experiment, self.cfg, self.workdir, self.stop = experiment, experiment.train, workdir, stop
    self.autoencoder, self.text_encoder = autoencoder, text_encoder
    self.stages = plan_stages(self.cfg)
    self.mesh = make_mesh(experiment.mesh)
    self.data = open_data(experiment, workdir)
    self.sizes = padded_sizes(experiment.model.num_image_tokens, self.cfg.mask_ratio, self.cfg.visible_sizes)
    # The optimizer's state has the same structure in all stages.
    self.graphdef, self.abstract = abstract_state(self._make_model, self._optimizer(self.stages[0]), self.mesh)
    self.checkpoints = Checkpointer(workdir / "checkpoints", self.cfg.keep)
    self.pending: tuple[int, str, Any] | None = None
    self.seen_shapes: set[tuple[str, int]] = set()
    self._resume(init)

  def _resume(self, init: nnx.State | None) -> None:
    """Set state, step, data position and log to where the newest checkpoint ends, or to the start."""
    # 1. Find the newest finished checkpoint; half-written ones are gone already.
    step = self.checkpoints.latest_step()
    # 2. Put the arrays onto today's mesh, or make them.
    if step is None:
      step, data, meta = 0, None, {"sums": {}}
      self.state = init_state(self._make_model, self._optimizer(self.stages[0]), self.abstract, self.experiment.seed)
      if init is not None:
        self.state = adopt(self.state, init)
    else:
      self.state, data, meta = self.checkpoints.restore(step, self.abstract)
      print(f"continuing after step {step}", flush=True)
      changed = [name for name, version in meta["versions"].items() if version != importlib.metadata.version(name)]
      if changed:
        print(f"note: other versions of {', '.join(changed)} began this run; last bits may differ", flush=True)
    self.step = self.first_step = step
    # 3. Keep the loader's position, for the stage that the step is in.
    self.data_state = data
    # 4. Continue the log: lines after the step are cut, sums of the unfinished line return.
    self.log = MetricLog(
        self.workdir, log_every=self.cfg.log_every, num_steps=self.cfg.steps, first_step=step, sums=meta["sums"],
        peak=matmul_peak(self.experiment.model.dtype), enabled=jax.process_index() == 0)

  def run(self) -> None:
    """Run all stages that are left."""
    try:
      for stage in self.stages:
        if stage.first <= self.step < stage.last and not self._run_stage(stage):
          cause = self.stop.name or "preemption"
          print(f"stopped by {cause} after step {self.step}; the same command continues", flush=True)
          return
      print(f"done: {self.cfg.steps} steps, checkpoints in {self.checkpoints.directory}", flush=True)
    finally:
      self.checkpoints.close()
      self.log.close()

  def _run_stage(self, stage: Stage) -> bool:
    """Run a stage to its end; return False if asked to stop before."""
    tx, schedule = self._optimizer(stage), make_schedule(self.experiment.optimizer, stage.last - stage.first)
    train_step = make_train_step(
        self.graphdef, self.abstract, make_loss(self.experiment, stage.cfg.num_frames), tx, schedule,
        seed=self.experiment.seed, ema_decay=self.cfg.ema_decay, first_step=stage.first,
        accumulation=self.cfg.accumulation, caption_dropout=self.cfg.caption_dropout,
        no_class=self.experiment.model.num_classes, freeze=self.cfg.freeze)
    loader = self._loader(stage)
    if self.step == stage.first:
      self.log.start_stage()
      self.state = start_stage(self.state, tx, self.abstract)
    else:
      loader.set_state(self.data_state["position"])
    try:
      return self._loop(stage, train_step, loader)
    finally:
      loader.close()

  def _loop(self, stage: Stage, train_step: Callable, loader: Loader) -> bool:
    while True:
      self._sample(stage)
      stopping = bool(self.stop.name) or self.checkpoints.reached_preemption(self.step)
      finished = self.step == self.cfg.steps
      if stopping or finished or self.step % self.cfg.save_every == 0:
        self._save(loader)
      if stopping or self.step == stage.last:
        self._settle()
        return not stopping or finished
      started = time.perf_counter()
      batch = self._put(next(loader))
      waited = time.perf_counter() - started
      num_visible = draw_num_visible(
          self.experiment.seed, self.step, self.experiment.model.num_image_tokens, self.cfg.mask_ratio)
      padded_size = next(size for size in self.sizes if size >= num_visible)
      self.state, metrics = train_step(self.state, batch, np.int32(num_visible), padded_size)
      self._settle()
      self.step += 1
      self.pending = (self.step, stage.cfg.name, metrics)
      self._clock(stage, padded_size, time.perf_counter() - started, waited, num_visible)

  def _sample(self, stage: Stage) -> None:
    if not self.cfg.sample_every or self.step in (self.first_step, stage.first):
      return
    if self.step % self.cfg.sample_every == 0 or self.step == self.cfg.steps:
      model = nnx.merge(self.graphdef, self.state.ema, self.state.buffers)
      pipe = Pipeline(card_of(self.experiment), model, self.text_encoder, self.autoencoder)
      path = self.workdir / f"samples/step_{self.step:06}.png"
      num_frames = self.autoencoder.num_frames(stage.cfg.num_frames)
      write_grid(path, pipe, self.data["test"], self.experiment.seed, num_frames)

  def _save(self, loader: Loader) -> None:
    self._settle()  # Never save what a step that failed has left.
    if self.step == self.first_step:
      return
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    meta = {"sums": self.log.state(), "versions": versions}
    self.checkpoints.save(self.step, self.state, {"position": loader.get_state()}, meta)

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
      last = self.checkpoints.latest_step()
      folder = self.checkpoints.directory / str(last)
      where = "there is no checkpoint yet" if last is None else f"the last good checkpoint is {folder}"
      raise FloatingPointError(f"step {step}: {bad[0]} is {metrics[bad[0]]}; {where}")
    self.log.add(step, stage, metrics)

  def _clock(self, stage: Stage, padded_size: int, seconds: float, waited: float, num_visible: int) -> None:
    """Count the step's time, unless it went into compiling."""
    shape = (stage.cfg.name, padded_size)
    if shape in self.seen_shapes:
      cfg, model = stage.cfg, self.experiment.model
      flops = train_flops(model, cfg.batch_size, cfg.num_frames, num_visible, self.cfg.loss_repeat)
      self.log.clock(seconds, waited, cfg.batch_size, flops)
    self.seen_shapes.add(shape)

  def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Spread this host's part of a batch over its devices."""
    sharding = batch_sharding(self.mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}

  def _loader(self, stage: Stage) -> Loader:
    experiment = self.experiment
    return Loader(
        self.data["train"], self.text_encoder, self.autoencoder, num_frames=stage.cfg.num_frames,
        seed=experiment.seed, batch_size=stage.cfg.batch_size, shard_index=jax.process_index(),
        shard_count=jax.process_count(), num_workers=experiment.data.num_workers)

  def _optimizer(self, stage: Stage) -> optax.GradientTransformation:
    return make_optimizer(self.experiment.optimizer, stage.last - stage.first, self.cfg.freeze)

  def _make_model(self, rngs: nnx.Rngs) -> NOVA:
    return NOVA(self.experiment.model, rngs=rngs)
