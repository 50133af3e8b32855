"""The trainer: stages, each of which takes step after step, with callbacks between them.

Order within the loop: evaluate → save → next batch → step → log. Step n is dispatched, and its batch on its way to the
devices, before the metrics of step n − 1 are fetched, so the device never waits for the host. Batches of each shape
have a program of their own. Invariant: a run that is killed and started again computes the same numbers, bit for bit,
as one that is not; no checkpoint is written whose loss or gradient is not finite. All processes make the same
decisions, and process 0 alone writes logs.
"""

import contextlib
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
from jax.sharding import Mesh

from nova_jax.checkpoints.store import SCORE, Checkpointer
from nova_jax.config import Experiment
from nova_jax.data.loader import Loader
from nova_jax.data.rows import local_rows, spread
from nova_jax.data.sources import Data
from nova_jax.parallel.processes import all_gather, first_alone, is_first
from nova_jax.parallel.sharding import batch_sharding, make_mesh
from nova_jax.pipeline.loading import describe
from nova_jax.storage import as_path
from nova_jax.train.callbacks import Callback
from nova_jax.train.flops import matmul_peak
from nova_jax.train.metrics import MetricLog, higher_is_better
from nova_jax.train.program import TrainProgram
from nova_jax.train.stages import Stage
from nova_jax.train.state import adopt
from nova_jax.train.step import Metrics
from nova_jax.train.task import Task
from nova_jax.train.trackers import Trackers
from nova_jax.train.workdir.claim import claim
from nova_jax.train.workdir.goodput import Goodput
from nova_jax.train.workdir.prolong import branch_step
from nova_jax.train.workdir.restart import own_damaged, way_back
from nova_jax.train.workdir.run_notes import noted, versions
from nova_jax.utils.terminal import say


class _Pending(NamedTuple):
  """A step that was dispatched, and whose metrics are not logged yet."""

  step: int
  stage: str
  metrics: Metrics
  evaluated: dict[str, float]  # What callbacks add.


class Trainer:
  """One process's part of a training run.

  Attributes:
    cfg: experiment.
    workdir: folder of the run.
    mesh: devices of the run.
    program: compiled steps.
    num_steps: steps of all stages together.
    step: number of steps done.
    first_step: number of steps that were done when this process began.
    stage: current stage.
    state: parameters, their average and the optimizer's state after `step` steps.
    data: data of all stages.
    branch_step: step whose checkpoint is kept, since a longer run can continue from it; see `prolong.branch_step`.
    evaluated: what callbacks returned that evaluated after `step` steps, by name.
    stop_cause: what stops the run after `step` steps; None if nothing does.
  """

  def __init__(
      self, task: Task, data: Data | Callable[[], Data], cfg: Experiment, workdir: str | Path,
      callbacks: Sequence[Callback] = (), *, mesh: Mesh | None = None,
  ):
    """Plan a run; nothing is written yet.

    Args:
      task: what to train.
      data: what to learn from, or a function that opens it once the workdir belongs to the run.
      cfg: experiment; its stages, optimizer, mesh and seed, but not its model, which the task creates.
      workdir: folder of the run, which all processes see.
      callbacks: what happens between steps. Without `SaveCheckpoints` no checkpoint is written.
      mesh: devices to train on; None arranges all of them as the config says.

    Raises:
      UserError: an experiment that can't run.
    """
    self.cfg, self.workdir, self.callbacks = cfg, as_path(workdir), tuple(callbacks)
    self.mesh = make_mesh(cfg.mesh) if mesh is None else mesh
    self.program = TrainProgram(task, cfg, self.mesh)
    self.num_steps, self.stop_cause = cfg.train.steps, None
    self.branch_step = branch_step(cfg)
    self.evaluated: dict[str, float] = {}
    self._task = task
    self._open_data = cast("Callable[[], Data]", data) if callable(data) else lambda: data
    self._sharding = batch_sharding(self.mesh)
    self._pending: _Pending | None = None
    self._compiled: set[Hashable] = set()
    self._goodput = Goodput()

  def run(self) -> bool:
    """Train from the workdir's newest checkpoint, if it has one, to the last step or until a callback stops the run.

    Returns:
      Whether the last step is done.

    Raises:
      UserError: a workdir of another experiment, or data that doesn't fit.
      FloatingPointError: the loss or the gradient is not finite; the message names the step and the last good
        checkpoint.
    """
    with contextlib.ExitStack() as stack:
      with first_alone("workdir"):
        if is_first():
          stack.enter_context(claim(self.workdir, self.cfg))
        for callback in self.callbacks:
          stack.callback(callback.close)
          callback.open(self)
      with first_alone("dataset"):
        self.data: Data = self._open_data()
      # The last checkpoint is stored before trackers send what is left.
      with contextlib.ExitStack() as logs, Checkpointer(
          self.workdir / "checkpoints", self.cfg.train.keep, self.cfg.train.keep_every,
          keep_steps=() if self.branch_step is None else (self.branch_step,),
          keep_best=self._keep_best()) as self.checkpoints:
        sums = self._resume()
        notes = logs.enter_context(noted(self)) if is_first() else {}
        self._log = logs.enter_context(contextlib.closing(self._open_log(sums, notes)))
        stages = (stage for stage in self.program.stages if stage.first <= self.step < stage.last)
        finished = all(self._run_stage(stage) for stage in stages)
      _say(self._goodput.line(notes.get("starts", ())))
      # Only now is the last checkpoint on the disk.
      if finished:
        _say(f"done: {self.num_steps} steps, checkpoints in {self.checkpoints.directory}")
      else:
        _say(f"stopped by {self.stop_cause} after step {self.step}; the same command continues")
      return finished

  def average(self) -> Any:
    """Return the model with averaged weights."""
    return self.program.average(self.state)

  def score(self) -> float | None:
    """Return the value of `eval.best_metric` after this step; None if it isn't known.

    The last stage alone has one: losses of clips of other lengths can't be compared with its own.
    """
    value = self.evaluated.get(self.cfg.eval.best_metric)
    return value if value is not None and math.isfinite(value) and self.stage.last == self.num_steps else None

  def save_checkpoint(self) -> None:
    """Save what the run needs to continue after this step, unless it is where this process began."""
    self._settle()  # Never save what a step that failed has left.
    if self.step == self.first_step:
      return
    damaged = all_gather(self._loader.damaged)
    data = {"position": self._loader.get_state()} | ({"damaged": damaged} if any(damaged) else {})
    meta = {"sums": self._log.state(), "versions": versions()}
    if states := {type(callback).__name__: state for callback in self.callbacks if (state := callback.state())}:
      meta["callbacks"] = states
    if (score := self.score()) is not None:
      meta[SCORE] = {"metric": self.cfg.eval.best_metric, "value": score, "higher": higher_is_better(self.cfg.eval)}
    with self._goodput.spend("save"):
      self.checkpoints.save(self.step, self.program.saved(self.state), data, meta)

  def show(self, name: str, path: Path) -> None:
    """Show a picture, a PNG file that process 0 has written, in the trackers that show pictures."""
    self._log.picture(self.step, name, path)

  def _keep_best(self) -> int:
    cfg = self.cfg.eval
    return cfg.keep_best if cfg.every or cfg.score_every else 0

  def _resume(self) -> dict[str, Any]:
    """Set state, step and data position to where the newest checkpoint ends, or to the start; return the log's sums."""
    # 1. Put the arrays of the newest checkpoint that is whole onto today's mesh; half-written ones are gone already.
    with self._goodput.spend("restore"):
      found = self.checkpoints.restore_newest(self.program.saved(self.program.abstract))
    # 2. Or make them.
    weights = self._task.initial_weights()
    if found is None:
      self.step, self._data_state, sums = 0, {}, {}
      self.state = self.program.init_state()
      if weights is not None:
        self.state = adopt(self.state, weights)
    else:
      # 3. Keep the loader's position, for the stage that the step is in.
      self.step, self._data_state, sums = found.step, found.data, found.meta["sums"]
      self.state = self.program.continued(found.state, weights)
      for line in found.set_aside:
        _say(f"note: {line}")
      _say(f"continuing after step {self.step}")
      passed = f", once for {found.num_replicas} replicas" if found.num_replicas > 1 else ""
      _say(f"read {found.num_bytes / 1e6:,.1f} MB of arrays in {found.seconds:.1f} s{passed}")
      for callback in self.callbacks:
        if state := found.meta.get("callbacks", {}).get(type(callback).__name__):
          callback.restore(state)
      now = versions()
      changed = [name for name, then in found.meta.get("versions", {}).items() if then != now.get(name)]
      if changed:
        _say(f"note: other versions of {', '.join(changed)} began this run; last bits may differ")
    self.first_step = self.step
    return sums

  def _open_log(self, sums: Mapping[str, Any], notes: Mapping[str, Any]) -> MetricLog:
    trackers, peak, train = None, math.inf, self.cfg.train
    if is_first():
      trackers = Trackers(self.workdir, train.trackers, self.step, notes)
      peak = matmul_peak(self.cfg.model.dtype)
    return MetricLog(
        trackers, log_every=train.log_every, stages=self.program.stages, sums=sums, peak=peak,
        spent=self._goodput.seconds)

  def _run_stage(self, stage: Stage) -> bool:
    """Run a stage to its end; return False if it is stopped before."""
    self.stage, cfg, data = stage, stage.cfg, self.cfg.data
    what = describe(self.state.params, self.cfg.model.dtype, self.program.model_name)
    _say(f"stage {cfg.name}, to step {stage.last}: {what}; programs compile before its first step")
    self._rows = local_rows(self._sharding, cfg.batch_size)
    self._loader = Loader(
        self.data.feed(cfg), batch_size=cfg.batch_size, rows=self._rows, num_workers=data.num_workers,
        max_damaged=data.max_damaged)
    if self.step == stage.first:
      self._log.start_stage()
      self.state = self.program.start_stage(self.state, stage)
    else:
      start = (self.step - stage.first) * cfg.batch_size  # Older runs of baselines don't say.
      self._loader.set_state(
          self._data_state.get("position", start), own_damaged(self._data_state.get("damaged", ())))
    with contextlib.closing(self._loader):
      while True:
        self._between_steps()
        if self.stop_cause or self.step == stage.last:
          self._settle()
          return not self.stop_cause or self.step == self.num_steps
        self._take_step()

  def _between_steps(self) -> None:
    self.evaluated = {}
    if self.step not in (self.first_step, self.stage.first):
      assert self._pending is not None  # A step was taken.
      with self._goodput.spend("evaluate"):
        for callback in self.callbacks:
          self.evaluated |= callback.evaluate(self) or {}
      self._pending.evaluated.update(self.evaluated)
    self.stop_cause = next(filter(None, [callback.should_stop(self) for callback in self.callbacks]), None)  # Ask all.
    for callback in self.callbacks:
      callback.save(self)

  def _take_step(self) -> None:
    for callback in self.callbacks:
      callback.before_step(self)
    self._goodput.begin_steps()
    started = time.perf_counter()
    batch = spread(self._sharding, self.stage.cfg.batch_size, self._rows, next(self._loader))
    waited = time.perf_counter() - started
    self._goodput.add("data", waited)
    shape = batch.latents.shape[1:]
    step = self.program.step(self.stage, shape)
    traced, static = step.task.host_inputs(self.cfg.seed, self.step)
    self.state, metrics = step(self.state, batch, traced, static)
    if self._loader.damaged:
      metrics |= {"damaged_records": len(self._loader.damaged)}
    self._settle()
    self.step += 1
    self._pending = _Pending(self.step, self.stage.cfg.name, metrics, {})
    for callback in self.callbacks:
      callback.after_step(self, metrics)
    # A step's time counts unless it went into compiling.
    if (self.stage, shape, static) in self._compiled:
      self._log.clock(time.perf_counter() - started, waited, self.stage.cfg.batch_size, step.task.flops(batch, traced))
    self._compiled.add((self.stage, shape, static))

  def _settle(self) -> None:
    """Fetch and log the metrics of the last step, if that is still to be done.

    Raises:
      FloatingPointError: they are not finite.
    """
    if self._pending is None:
      return
    (step, stage, metrics, evaluated), self._pending = self._pending, None
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
      self.checkpoints.wait()
      way = way_back(self.checkpoints.directory, self.first_step)
      raise FloatingPointError(f"step {step}: {bad[0]} is {values[bad[0]]}; {way}")
    line = self._log.add(step, stage, values | evaluated)
    if line is not None and is_first():
      for callback in self.callbacks:
        callback.log(self, step, line)


def _say(text: str) -> None:
  if is_first():
    say(text)
