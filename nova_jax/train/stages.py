"""Which steps of a run belong to which of its stages.

Invariant: every step belongs to exactly one.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from nova_jax.config import StageConfig, TrainConfig
from nova_jax.utils.errors import UserError
from nova_jax.utils.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage's place in the run: global steps `first` to `last`, the latter excluded."""

  cfg: StageConfig
  first: int
  last: int


def plan_stages(cfg: TrainConfig) -> tuple[Stage, ...]:
  """Divide the steps among the stages, in proportion to their fractions.

  Raises:
    UserError: numbers that make no run.
  """
  check_ranges(cfg, "train")
  if not sum(stage.fraction for stage in cfg.stages):
    raise UserError(f"train.stages: expected at least one stage with a positive fraction, got {cfg.stages}")
  for stage in cfg.stages:
    if stage.batch_size % cfg.accumulation:
      raise UserError(
          f"train.accumulation: {cfg.accumulation} micro-batches don't divide"
          f" batch_size={stage.batch_size} of stage {stage.name!r}")
  ends = np.cumsum([stage.fraction for stage in cfg.stages])
  ends = [round(cfg.steps * end / ends[-1]) for end in ends.tolist()]
  return tuple(Stage(stage, first, last) for stage, first, last in zip(cfg.stages, [0, *ends[:-1]], ends, strict=True))


def frames_until(stages: Sequence[Stage], step: int) -> int:
  """Return the number of frames in the batches of the first `step` steps, which the time of a run grows with."""
  return sum(
      stage.cfg.batch_size * stage.cfg.num_frames * (min(max(step, stage.first), stage.last) - stage.first)
      for stage in stages)
