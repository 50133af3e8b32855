"""NOVA without its autoregression in time: the frames of a clip as one tall picture, generated in sets of tokens.

  latents [B, T, h, w, C] → [B, 1, T·h, w, C],   up to T times as many sets as a frame has

The sets, the denoiser and the loss are NOVA's. What the temporal encoder gives is a condition of text alone, and tokens
of all frames are made in any order; a token's time is its place in the picture. A clip has one length; single frames
can't be trained on.
"""

import dataclasses

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from nova_jax.config import ModelConfig
from nova_jax.diffusion import Scheduler
from nova_jax.diffusion.batch import Batch
from nova_jax.diffusion.loss import sample_training_noise, training_loss
from nova_jax.models.condition import Condition
from nova_jax.models.nova import NOVA
from nova_jax.sampling.frame_context import Model
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.inputs import Conditions, Inputs
from nova_jax.sampling.plan import make_plan
from nova_jax.sampling.sampler import generate
from nova_jax.tools.baselines.task import Baseline
from nova_jax.train.flops import forward_flops
from nova_jax.train.masking import draw_num_visible, padded_sizes
from nova_jax.train.step import Metrics

# Bounds of the share of masked tokens. NOVA's 0.7 to 1 would seldom show a token what stands at its place in other
# frames, which here is all that carries a picture through time.
MASK_RATIO = (0.1, 1.0)
DRAWS = 1000  # Steps whose numbers of visible tokens are averaged to count operations.


def block_model(cfg: ModelConfig, num_frames: int) -> ModelConfig:
  """Return the sizes of a model of clips of `num_frames` frames, each clip one picture, from those of NOVA.

  It has no motion tokens and no scaling & shift; one more block in the spatial encoder makes up for their parameters.
  """
  height, width = cfg.latent_size
  return dataclasses.replace(
      cfg, latent_size=(num_frames * height, width), spatial_depth=cfg.spatial_depth + 1, base_frames=1,
      mixer_rank=None)


def stack(latents: Float[Array, "B T h w C"]) -> Float[Array, "B 1 T*h w C"]:
  """Put the frames of clips one below the other."""
  batch, num_frames, height, width, channels = latents.shape
  return latents.reshape(batch, 1, num_frames * height, width, channels)


@dataclasses.dataclass(frozen=True, eq=False)
class OneBlock(Baseline):
  """The task of the trainer."""

  cfg: ModelConfig  # Of stacked frames, see `block_model`.
  scheduler: Scheduler
  num_sets: int  # Of a clip.
  num_steps: int  # K, of diffusion.
  loss_repeat: int

  def init(self, rngs: nnx.Rngs) -> NOVA:
    return NOVA(self.cfg, rngs=rngs)

  def host_inputs(self, seed: int, step: int) -> tuple[np.int32, int]:
    """Return the number of visible tokens of a step, and the size that they are padded to."""
    num_tokens = self.cfg.num_image_tokens
    return np.int32(draw_num_visible(seed, step, num_tokens, MASK_RATIO)), padded_sizes(num_tokens, MASK_RATIO, 1)[0]

  def loss(
      self, model: NOVA, batch: Batch, keys: Key[Array, "B"], traced: Int[Array, ""], static: int
  ) -> tuple[Float[Array, ""], Metrics]:
    """Return NOVA's loss of stacked frames."""
    noise = sample_training_noise(keys, self.cfg, self.scheduler, 1, static, self.loss_repeat)
    return training_loss(model, self.scheduler, batch._replace(latents=stack(batch.latents)), noise, traced)

  def forward_flops(self, num_frames: int) -> float:
    """Return the operations of one sample's forward pass in training, at the mean number of visible tokens."""
    del num_frames  # A clip has one length.
    visible = np.mean([self.host_inputs(0, step)[0] for step in range(DRAWS)])
    return forward_flops(self.cfg, 1, visible, self.loss_repeat)

  def generate(
      self, model: Model, condition: Condition, keys: Key[Array, "B"], num_frames: int, guidance_scale: float
  ) -> Float[Array, "B T h w C"]:
    """Generate latents of clips."""
    plan = make_plan(
        self.cfg, self.scheduler, num_frames=1, num_sets=self.num_sets, num_steps=self.num_steps,
        guidance=Guidance(guidance_scale))
    inputs = Inputs(Conditions(condition, condition.without(None)), keys)
    (picture,) = generate(model, plan, inputs)
    return picture.reshape(len(keys), num_frames, -1, *picture.shape[2:])
