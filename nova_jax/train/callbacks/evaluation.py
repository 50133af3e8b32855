"""Losses on held-out records while training, and the stop of a run that they tell has learned enough.

Every evaluation takes the same records, with the same captions, masks, diffusion times and noise. All of it derives
from a constant and from a record's place among the held-out ones.
Invariant: an evaluation is a function of the weights and of the stage alone. It depends neither on the step nor on a
restart, and it changes no number of the training.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nova_jax.config import EvalConfig
from nova_jax.data.loader import Feed, Loader
from nova_jax.data.rows import local_rows, spread
from nova_jax.parallel.sharding import batch_sharding
from nova_jax.train.callbacks import Callback
from nova_jax.train.metrics import EVALUATED, higher_is_better
from nova_jax.train.stages import Stage
from nova_jax.train.trainer import Trainer


class HeldOutLoss(Callback):
  """Computes the losses of held-out records, with the last weights and with the averaged ones.

  Metrics are named "eval/NAME", "eval/ema_NAME", and "eval/ema_0.999_NAME" of a further average with that decay, where
  NAME is one of the training's: for clips "loss", "loss_t2i" (of first frames) and "loss_i2i" (of later ones).
  """

  def __init__(self, cfg: EvalConfig):
    """Plan evaluations, of which none take place without `cfg.every`."""
    self._cfg = cfg
    self._feeds: dict[Stage, Feed] = {}
    self._damaged: list[str] = []

  def evaluate(self, trainer: Trainer) -> dict[str, float] | None:
    every, step = self._cfg.every, trainer.step
    if not every or (step % every and step != trainer.num_steps):
      return None
    return self.losses(trainer)

  def losses(self, trainer: Trainer) -> dict[str, float]:
    """Return the losses of the trainer's weights, for the stage that it is in: means over all batches."""
    stage, experiment = trainer.stage, trainer.cfg
    if stage not in self._feeds:
      self._feeds[stage] = trainer.data.held_out(stage.cfg)
    size = stage.cfg.batch_size // experiment.train.accumulation  # What fits into the memory in training.
    sharding = batch_sharding(trainer.mesh)
    rows = local_rows(sharding, size)
    loader = Loader(self._feeds[stage], batch_size=size, rows=rows, max_damaged=experiment.data.max_damaged)
    loader.set_state(0, self._damaged)
    weights = {"": trainer.state.params, "ema_": trainer.state.ema}
    weights |= {f"ema_{decay}_": average for decay, average in trainer.state.emas.items()}
    found = []
    with contextlib.closing(loader):
      for number in range(self._cfg.batches):
        batch = spread(sharding, size, rows, next(loader))
        step = trainer.program.eval_step(batch.latents.shape[1:])
        traced, static = step.task.eval_inputs(number)
        for which, values in weights.items():
          metrics = step(values, trainer.state.buffers, batch, traced, static)
          found.append({f"{EVALUATED}{which}{name}": value for name, value in metrics.items()})
    self._damaged = loader.damaged
    found = jax.device_get(found)
    # Stills, which may be mixed with clips, have no loss of later frames.
    names = dict.fromkeys(name for metrics in found for name in metrics)
    return {name: float(np.mean([metrics[name] for metrics in found if name in metrics], dtype=np.float64))
            for name in names}


class EarlyStopping(Callback):
  """Stops the run when the best value of `eval.best_metric` is `patience` evaluations old; 0 never stops it.

  The run may be continued: it stops again at the next evaluation that has no better value.
  """

  def __init__(self, patience: int):
    self._patience = patience
    self._best: float | None = None  # The best value,
    self._worse = 0  # and the number of evaluations since.

  def should_stop(self, trainer: Trainer) -> str | None:
    score = trainer.score()
    if not self._patience or score is None:
      return None
    better = self._best is None or (score > self._best if higher_is_better(trainer.cfg.eval) else score < self._best)
    self._best, self._worse = (score, 0) if better else (self._best, self._worse + 1)
    if self._worse < self._patience:
      return None
    return f"eval.patience={self._patience} ({trainer.cfg.eval.best_metric} has been {self._best:.4f} at best)"

  def state(self) -> dict[str, float]:
    return {} if self._best is None else {"best": self._best, "worse": self._worse}

  def restore(self, state: Mapping[str, Any]) -> None:
    self._best, self._worse = state["best"], state["worse"]
