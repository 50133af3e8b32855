"""What the baselines have in common as tasks of the trainer, and what their training costs.

Invariant: compute is counted as for NOVA, three forward passes a step, so that equal numbers mean equal compute.
"""

import abc
import dataclasses
from typing import Any

from jaxtyping import Array, Float, Key

from nova_jax.config import Experiment
from nova_jax.diffusion.batch import Batch
from nova_jax.models.condition import Condition
from nova_jax.sampling.frame_context import Model
from nova_jax.train.stages import plan_stages
from nova_jax.train.task import Task


class Baseline(Task, abc.ABC):
  """A model that NOVA is compared with."""

  @abc.abstractmethod
  def forward_flops(self, num_frames: int) -> float:
    """Return the operations of one sample's forward pass in training."""

  @abc.abstractmethod
  def generate(
      self, model: Model, condition: Condition, keys: Key[Array, "B"], num_frames: int, guidance_scale: float
  ) -> Float[Array, "B T h w C"]:
    """Generate latents of clips."""

  def flops(self, batch: Batch, traced: Any) -> float:
    del traced
    return self.step_flops(*batch.latents.shape[:2])

  def step_flops(self, batch_size: int, num_frames: int) -> float:
    """Return the operations of a training step."""
    return 3 * batch_size * self.forward_flops(num_frames)


def equal_compute(baseline: Baseline, experiment: Experiment, flops: float) -> Experiment:
  """Return the experiment with as many steps as cost nearest to `flops`."""
  stages = experiment.train.stages
  mean = sum(stage.fraction * baseline.step_flops(stage.batch_size, stage.num_frames) for stage in stages)
  mean /= sum(stage.fraction for stage in stages)
  return dataclasses.replace(
      experiment, train=dataclasses.replace(experiment.train, steps=max(1, round(flops / mean))))


def total_flops(baseline: Baseline, experiment: Experiment) -> float:
  """Return the operations of a training."""
  return sum(
      (stage.last - stage.first) * baseline.step_flops(stage.cfg.batch_size, stage.cfg.num_frames)
      for stage in plan_stages(experiment.train))
