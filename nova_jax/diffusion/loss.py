"""The training loss: every masked token's diffusion loss, averaged (paper, equations 5 and 6).

Every token is noised `loss_repeat` times, each with its own time and noise; squared errors are averaged over a token's
values and over masked tokens. For clips it is reported as `loss_t2i` (frame 0) and `loss_i2i` (the rest), each scaled
to a mean over its own frames; their sum is minimised.

Invariant: all randomness of a sample comes from its own key, so that it doesn't depend on who else is in the batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from nova_jax.config import ModelConfig
from nova_jax.diffusion import Scheduler
from nova_jax.models.embeddings import patchify
from nova_jax.models.nova import NOVA, Condition
from nova_jax.models.tokens import put
from nova_jax.parallel.sharding import constrain


class Draws(NamedTuple):
  """The random choices of a batch. V is the padded number of visible tokens, R the repeats, P values a token."""

  visible_ids: Int[Array, "B T V"]
  indices: Int[Array, "B R T N"]
  noise: Float[Array, "B R T N P"]


def draw(
    keys: Key[Array, "B"], cfg: ModelConfig, scheduler: Scheduler, num_frames: int, max_visible: int, loss_repeat: int
) -> Draws:
  """Draw visible tokens, times and noise for each sample from its own key."""

  def draw_one(key):
    order_key, index_key, noise_key = jax.random.split(key, 3)
    # Float32 scores: in half precision ties would favour low positions.
    order = jnp.argsort(jax.random.uniform(order_key, (num_frames, cfg.num_image_tokens)), axis=-1)
    shape = (loss_repeat, num_frames, cfg.num_image_tokens)
    noise = jax.random.normal(noise_key, (*shape, cfg.patch_dim))
    return Draws(order[:, :max_visible], scheduler.sample_indices(index_key, shape), noise)

  return jax.vmap(draw_one)(keys)


def training_loss(
    model: NOVA, scheduler: Scheduler, batch: Condition, draws: Draws, num_visible: Int[Array, ""] | int
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Return the loss of a batch and its parts.

  Args:
    model: the transformer.
    scheduler: the diffusion process.
    batch: `latents` [B, T, h, w, C] and the condition (see `Condition`); by choice `given` [B], how many first frames
      a clip is continued from, whose errors don't count.
    draws: the random choices.
    num_visible: how many of each frame's `visible_ids` count.
  """
  outputs = forward(model, scheduler, batch, draws, num_visible)
  return reduce_loss(outputs["error"], outputs["mask"])


def forward(
    model: NOVA, scheduler: Scheduler, batch: Condition, draws: Draws, num_visible: Int[Array, ""] | int
) -> dict[str, Array]:
  """Run all parts on a batch; return what each part made, by name.

  Returns:
    `temporal` [B, T, M, D] before scaling & shift, `spatial` [B, T, N, D], `noised`, `prediction` [B, R, T, N, P],
    `time` [B, R, T, N], `error` [B, R, T, N] and `mask` [B, T, N] (1 = masked).
  """
  cfg, latents = model.cfg, batch["latents"]
  batch_size, num_frames = latents.shape[:2]
  # Temporal autoregression over frames.
  temporal = model.temporal(latents, model.embed_condition(batch))
  cond = model.anchor(temporal).reshape(batch_size * num_frames, -1, cfg.width)
  # Masked autoregression within each frame.
  patches = patchify(latents, cfg.patch_size)
  visible_ids = draws.visible_ids.reshape(batch_size * num_frames, -1)
  mask = mask_of(visible_ids, num_visible, cfg.num_image_tokens)
  tokens = model.mask_tokens(patches.reshape(batch_size * num_frames, *patches.shape[2:]), mask[..., None])
  spatial = model.image_encoder(tokens, visible_ids, num_visible, cond).reshape(*patches.shape[:3], cfg.width)
  spatial = constrain(spatial, "batch", None, "sequence", None)
  # Diffusion of each token. Its condition is projected once for all repeats.
  x, noise = patches[:, None], draws.noise
  noised = scheduler.add_noise(x, noise, draws.indices)
  time = scheduler.network_time(draws.indices)
  z = model.image_decoder.condition(spatial)[:, None]
  prediction = model.image_decoder(noised, time, z, ("batch", None, None, "sequence"))
  error = jnp.square(prediction - scheduler.target(x, noise, draws.indices)).mean(-1)
  if "given" in batch:
    # They count as zeros, so that every clip weighs the same in whatever micro-batch it is.
    error = jnp.where(jnp.arange(num_frames)[:, None] < batch["given"][:, None, None, None], 0, error)
  return {
      "temporal": temporal, "spatial": spatial, "noised": noised, "time": time, "prediction": prediction,
      "error": error, "mask": mask.reshape(batch_size, num_frames, -1)}


def mask_of(visible_ids: Int[Array, "B V"], num_visible: Int[Array, ""] | int, num_tokens: int) -> Float[Array, "B N"]:
  """Return 1 where a token is masked; ids behind `num_visible` are padding."""
  places = jnp.where(jnp.arange(visible_ids.shape[1]) < num_visible, visible_ids, num_tokens)
  return put(jnp.ones((visible_ids.shape[0], num_tokens)), places, jnp.zeros(places.shape))


def reduce_loss(
    error: Float[Array, "B R T N"], mask: Float[Array, "B T N"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Average the errors of masked tokens; for clips, report frame 0 and the rest apart."""
  num_repeats, num_frames = error.shape[1:3]
  weights = mask[:, None]
  per_frame = (error * weights).sum((0, 1, 3)) / (num_repeats * weights.sum() + 1e-5)
  if num_frames == 1:
    return per_frame[0], {"loss": per_frame[0]}
  first = per_frame[0] * num_frames
  later = per_frame[1:].sum() * (num_frames / (num_frames - 1))
  return first + later, {"loss": first + later, "loss_t2i": first, "loss_i2i": later}


def loss(
    model: NOVA, scheduler: Scheduler, batch: Condition, key: Key[Array, ""], *, loss_repeat: int = 4,
    mask_ratio: tuple[float, float] = (0.7, 1.0),
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Return the loss of a batch and its parts, with all randomness drawn from one key: a training loop needs no more.

  The share of masked tokens is one number a call, drawn from a normal distribution around 1 with a standard deviation
  of 0.25 and cut to `mask_ratio`. Visible tokens are padded to the most there can be, so that shapes are static.

  Args:
    model: transformer.
    scheduler: diffusion process.
    batch: see `training_loss`.
    key: random key of the step.
    loss_repeat: noised copies of each token, R.
    mask_ratio: least and greatest share of masked tokens.
  """
  cfg, (batch_size, num_frames) = model.cfg, batch["latents"].shape[:2]
  ratio_key, noise_key = jax.random.split(key)
  max_visible = max(round((1 - mask_ratio[0]) * cfg.num_image_tokens), 1)
  draws = draw(jax.random.split(noise_key, batch_size), cfg, scheduler, num_frames, max_visible, loss_repeat)
  low, high = ((share - 1) / 0.25 for share in mask_ratio)
  ratio = 1 + 0.25 * jax.random.truncated_normal(ratio_key, low, high)
  num_visible = jnp.clip(jnp.round((1 - ratio) * cfg.num_image_tokens), 0, max_visible).astype(jnp.int32)
  return training_loss(model, scheduler, batch, draws, num_visible)
