"""Runs that are prolonged: which steps of a run are those of a longer one.

With a constant learning rate, or with WSD's before it falls, a step doesn't depend on how many follow. So a run that
was planned for some steps continues as the one that was planned for more, bit for bit.
"""

import numpy as np

from nova_jax.config import Experiment
from nova_jax.train.optimizer import decay_start, make_schedule
from nova_jax.train.stages import plan_stages

PLAN = ("train.steps", "optimizer.decay_fraction")  # Fields that say how long a run is.


def same_steps(then: Experiment, now: Experiment, done: int) -> bool:
  """Return whether the first `done` steps belong to the same stages and have the same learning rates.

  Args:
    then: experiment of the workdir.
    now: experiment that differs from it in the fields of `PLAN` alone.
    done: number of steps that are done.
  """
  for old, new in zip(plan_stages(then.train), plan_stages(now.train), strict=True):
    if min(old.first, done) != min(new.first, done) or min(old.last, done) != min(new.last, done):
      return False
    steps = np.arange(max(min(old.last, done) - old.first, 0))
    old_rate, new_rate = (
        make_schedule(cfg.optimizer, stage.last - stage.first)(steps) for cfg, stage in ((then, old), (now, new)))
    if not np.array_equal(old_rate, new_rate):
      return False
  return True


def branch_step(experiment: Experiment) -> int | None:
  """Return the last step whose checkpoint a longer run can continue from, if the learning rate falls after it.

  Stages whose steps are fractions of the run's begin elsewhere in a longer one, so there is none if several have steps.
  """
  stages = [stage for stage in plan_stages(experiment.train) if stage.first < stage.last]
  if experiment.optimizer.schedule != "wsd" or len(stages) > 1:
    return None
  return decay_start(experiment.optimizer, stages[0].last)
