"""What the start of a run says, and takes over from processes that ran before; and what a failed step leaves to do."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from nova_jax.checkpoints.store import finished_steps
from nova_jax.config import Experiment
from nova_jax.data.sources import CacheData
from nova_jax.train.stages import plan_stages


def notes(experiment: Experiment, caches: CacheData | None) -> Iterator[str]:
  """Yield what a person should know before a run begins."""
  warmup = experiment.optimizer.warmup_steps
  for stage in plan_stages(experiment.train):
    if 0 < stage.last - stage.first < warmup:
      yield (
          f"optimizer.warmup_steps={warmup} is longer than stage {stage.cfg.name!r} of {stage.last - stage.first} "
          "steps, which never reaches its learning rate")
  if caches is not None:
    yield from caches.notes()


def own_damaged(lists: Sequence[str] | Sequence[Sequence[str]]) -> list[str]:
  """Return the damaged records that this process goes on to count, of the lists that a checkpoint has of all processes.

  The processes may be others than those that saved: then they share all records out among them.
  """
  older = [name for name in lists if isinstance(name, str)]  # An older version kept process 0's list alone.
  each = [older] if older else [names for names in lists if not isinstance(names, str)]
  process, count = jax.process_index(), jax.process_count()
  if len(each) == count:
    return list(each[process])
  every = list(dict.fromkeys(name for names in each for name in names))
  return every[process::count]


def way_back(directory: Path, first_step: int) -> str:
  """Return what to say of the checkpoints when a step has failed, in a process that began after `first_step`."""
  *before, last = finished_steps(directory) or [None]
  folder = directory / str(last)
  if last is None:
    return "there is no checkpoint yet"
  if last > first_step:
    return f"the last good checkpoint is {folder}"
  # No step after it has gone well: it may be the cause.
  further = f"to go back to step {before[-1]}, remove it" if before else "there is none before it"
  return f"this run continued from {folder}, which may be the cause; {further}"
