"""The work that is timed: one training step and one generation of a model of middle size.

Invariant: all sizes of the work are numbers of `Work`, which the peer is given as they are, so that both sides do the
same.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from nova_jax.checkpoints.model_card import card_from_experiment
from nova_jax.config import (
  Experiment,
  MeshConfig,
  ModelConfig,
  OptimizerConfig,
  SampleConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.batch import Batch
from nova_jax.models.condition import Condition
from nova_jax.models.nova import NOVA
from nova_jax.parallel.sharding import make_mesh
from nova_jax.pipeline.model_parts import ModelParts
from nova_jax.pipeline.request import Request
from nova_jax.pipeline.resolve import plan_for
from nova_jax.sampling.inputs import Conditions, Inputs
from nova_jax.sampling.sampler import Model, generate
from nova_jax.train.masking import VisibleRange, visible_range
from nova_jax.train.nova import NovaTask
from nova_jax.train.program import TrainProgram

VISIBLE_SIZES = 4  # `train.visible_sizes`.


@dataclasses.dataclass(frozen=True)
class Work:
  """What is timed.

  Attributes:
    model: the transformer: by default `vit_d4w768`, `vit_d8w768` and `mlp_d3w768`, in float32.
    batch_size: clips.
    num_visible: known tokens a frame in training, of 256; the mean of what is drawn.
    loss_repeat: noised copies of each token.
    num_sets: S of a generation.
    num_steps: K of a generation.
    guidance_scale: of a generation; two passes.
  """

  model: ModelConfig = ModelConfig(
      latent_dim=4, latent_size=(32, 32), patch_size=2, width=768, num_heads=12, temporal_depth=4, spatial_depth=8,
      denoiser_depth=3, denoiser_width=768, base_frames=4, text_dim=256, text_len=64, mixer_rank=24, remat="none")
  batch_size: int = 1
  num_visible: int = 38
  loss_repeat: int = 4
  num_sets: int = 16
  num_steps: int = 25
  guidance_scale: float = 5.0


class Run(NamedTuple):
  """Work that is ready: both functions wait for it to end."""

  once: Callable[[], None]
  warm_up: Callable[[], None]  # Compiles all that `once` needs, in less time if there is a way.


def visible_of(work: Work) -> VisibleRange:
  """Return what the training step knows of its number of visible tokens."""
  return visible_range(work.num_visible, work.model.num_image_tokens, TrainConfig().mask_ratio, VISIBLE_SIZES)


def make_training(work: Work, num_frames: int) -> Run:
  """Return one training step. The optimizer is the published one's."""
  stage = StageConfig(batch_size=work.batch_size, num_frames=num_frames)
  train = TrainConfig(stages=(stage,), loss_repeat=work.loss_repeat, visible_sizes=VISIBLE_SIZES, caption_dropout=0.0)
  experiment = Experiment(model=work.model, train=train, optimizer=OptimizerConfig(clip_norm=0))
  mesh = make_mesh(MeshConfig(data=1, fsdp=1), jax.local_devices()[:1])
  program = TrainProgram(NovaTask.from_experiment(experiment), experiment, mesh)
  shape = (num_frames, *work.model.latent_size, work.model.latent_dim)
  step = program.step(program.stages[0], shape)
  latents = np.zeros((work.batch_size, *shape), np.float32)
  batch = Batch(latents, condition(work, 1), index=np.arange(work.batch_size))
  visible = visible_of(work)
  state = program.init_state()

  def take_step():
    nonlocal state
    state, _ = jax.block_until_ready(step(state, batch, work.num_visible, visible))

  return Run(take_step, take_step)


def make_generation(work: Work, num_frames: int, preset: str = "exact") -> Run:
  """Return the generation of latents with a preset."""
  experiment = Experiment(
      model=work.model, train=TrainConfig(stages=(StageConfig(num_frames=num_frames),)),
      sample=SampleConfig(
          num_inference_steps=work.num_sets, num_diffusion_steps=work.num_steps, guidance_scale=work.guidance_scale))
  parts = ModelParts(card_from_experiment(experiment), work.model, make_scheduler(experiment.scheduler))
  model = Model.from_module(NOVA(work.model, rngs=nnx.Rngs(0)))
  plan = plan_for(Request(preset=preset, output="latent"), parts, num_frames)
  inputs = Inputs(
      Conditions(condition(work, 1), condition(work, 0)), jax.random.split(jax.random.key(0), work.batch_size))

  def run(most: int):
    frames = generate(model, plan, inputs)
    jax.block_until_ready(list(itertools.islice(frames, most)))

  # The second frame compiles what all later ones run.
  return Run(lambda: run(num_frames), lambda: run(2))


def condition(work: Work, share: float) -> Condition:
  """Return the condition of all clips, captions being `share` of the longest."""
  cfg = work.model
  return Condition(
      np.ones((work.batch_size, cfg.text_len, cfg.text_dim), np.float32),
      np.full(work.batch_size, int(share * cfg.text_len), np.int32),
      motion_flow=np.full(work.batch_size, 5.0, np.float32), fps=np.full(work.batch_size, 12.0, np.float32))
