"""A baseline of NOVA: diffusion of a whole clip at once, all tokens of all frames in one bidirectional sequence.

  x_σ = σ·noise + (1 − σ)·x,   [text, time, tokens of x_σ] → v,   loss = mean ‖v − (noise − x)‖²

One time for all tokens of a clip, given to the transformer as a token of the prefix. Generation takes K steps of the
same process that NOVA's denoiser takes, each through the whole transformer, with guidance u + g·(c − u).
Invariant: all randomness of a sample comes from its own key.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from nova_jax.config import ModelConfig
from nova_jax.diffusion import Scheduler
from nova_jax.diffusion.batch import Batch
from nova_jax.models.condition import Condition
from nova_jax.models.denoiser import TIME_DIM, time_embedding
from nova_jax.models.embeddings import PatchEmbed
from nova_jax.models.layers import MLP, Linear
from nova_jax.sampling.frame_context import Model
from nova_jax.sampling.guidance import Strength
from nova_jax.tools.baselines.backbone import Backbone, clips_of, forward_flops, tokens_of, with_null
from nova_jax.tools.baselines.task import Baseline
from nova_jax.train.step import Metrics
from nova_jax.utils.errors import UserError


class FullClipModel(nnx.Module):
  """A bidirectional transformer from noised tokens to their diffusion targets."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    token_dim = 4 * cfg.patch_dim
    self.patch_embed = PatchEmbed(token_dim, cfg.width, rngs=rngs)
    self.time_proj = MLP(TIME_DIM, cfg.width, cfg.width, jax.nn.silu, rngs=rngs)
    self.backbone = Backbone(cfg, rngs=rngs)
    self.head = Linear((cfg.width,), (token_dim,), ("embed", "patch"), zero=True, rngs=rngs)

  def __call__(
      self, x: Float[Array, "B S P"], time: Float[Array, "B"], text: Float[Array, "B L D"]
  ) -> Float[Array, "B S P"]:
    """Predict the diffusion target.

    Args:
      x: noised tokens of clips.
      time: the process's time of each clip, in [0, 1000].
      text: what `backbone.embed_text` returned.
    """
    tokens = self.patch_embed(x.astype(self.cfg.dtype))
    tokens += self.backbone.positions(x.shape[1] // self.cfg.num_video_tokens)
    time = self.time_proj(time_embedding(time).astype(self.cfg.dtype))
    prefix = jnp.concatenate([text, time[:, None]], axis=1)
    return self.head(self.backbone(prefix, tokens, None)).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=("scheduler", "num_frames"))
def sample(
    model: Model, condition: Condition, keys: Key[Array, "B"], scale: float, table: Any, scheduler: Scheduler,
    num_frames: int,
) -> Float[Array, "B S P"]:
  """Turn noise into the tokens of clips, each from its own key.

  Args:
    model: the transformer.
    condition: captions.
    keys: one a clip.
    scale: of guidance.
    table: the scheduler's steps.
    scheduler: the process.
    num_frames: T.
  """
  network, batch = model.merge(), len(keys)
  text = network.backbone.embed_text(with_null(condition))
  shape = (num_frames * network.cfg.num_video_tokens, 4 * network.cfg.patch_dim)
  valid = jnp.ones(shape[0], bool)

  def step(x, row):
    v = network(jnp.tile(x, (2, 1, 1)), jnp.full(2 * batch, row.time), text)
    v = Strength(scale).combine(v.reshape(2, batch, *shape), valid)
    return scheduler.step(row, x, v, None, valid), None

  noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
  return jax.lax.scan(step, noise, table)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class FullClip(Baseline):
  """The task of the trainer."""

  cfg: ModelConfig
  scheduler: Scheduler
  num_steps: int  # K.

  def __post_init__(self):
    if self.scheduler.adds_noise:
      raise UserError("scheduler.name: full-clip diffusion is sampled by flow matching, got a process that adds noise")

  def init(self, rngs: nnx.Rngs) -> FullClipModel:
    return FullClipModel(self.cfg, rngs=rngs)

  def loss(
      self, model: FullClipModel, batch: Batch, keys: Key[Array, "B"], traced: None = None, static: None = None
  ) -> tuple[Float[Array, ""], Metrics]:
    """Return the squared error of a batch's clips, each noised once."""
    del traced, static
    x = tokens_of(batch.latents, self.cfg)
    index_keys, noise_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    indices = jax.vmap(lambda key: self.scheduler.sample_indices(key, ()))(index_keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(noise_keys)
    noised = self.scheduler.add_noise(x, noise, indices[:, None])
    v = model(noised, self.scheduler.network_time(indices), model.backbone.embed_text(batch.condition))
    loss = jnp.square(v - self.scheduler.target(x, noise, indices[:, None])).mean()
    return loss, {"loss": loss}

  def forward_flops(self, num_frames: int) -> float:
    """Return the operations of one sample's forward pass in training."""
    d, tokens = self.cfg.width, num_frames * self.cfg.num_video_tokens
    length = self.cfg.text_len + 1 + tokens
    ends = 2 * 2 * d * 4 * self.cfg.patch_dim * tokens + 2 * (TIME_DIM * d + d**2)
    return forward_flops(self.cfg, length, length**2) + ends

  def generate(
      self, model: Model, condition: Condition, keys: Key[Array, "B"], num_frames: int, guidance_scale: float
  ) -> Float[Array, "B T h w C"]:
    """Generate latents of clips."""
    table = self.scheduler.steps(self.num_steps)
    tokens = sample(model, condition, keys, guidance_scale, table, self.scheduler, num_frames)
    return clips_of(tokens, self.cfg)
