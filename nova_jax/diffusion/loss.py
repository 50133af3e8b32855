"""The training loss: the diffusion loss averaged over all masked tokens (paper, equations 5 and 6).

Each token is noised `loss_repeat` times, each time with its own diffusion time and noise. Squared errors are averaged
over the values of a token and over masked tokens. For clips the loss is reported as `loss_t2i` (frame 0) and `loss_i2i`
(the other frames), each scaled to a mean over its own frames. Their sum is minimised.

Invariant: all randomness of a sample comes from its own key, so it does not depend on the other samples of the batch.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key, Shaped

from nova_jax.config import ModelConfig
from nova_jax.diffusion import Scheduler
from nova_jax.diffusion.batch import Batch, as_batch
from nova_jax.diffusion.history import History
from nova_jax.models.embeddings import patchify
from nova_jax.models.nova import NOVA
from nova_jax.models.tokens import gather_tokens, scatter_tokens
from nova_jax.parallel.sharding import constrain
from nova_jax.utils.arrays import AnyArray


class TrainingNoise(NamedTuple):
  """Random choices for a batch, where V is the padded number of visible tokens, R the number of repeats of the loss.

  Attributes:
    visible_ids: random order of each frame's tokens, of which the first ones are visible.
    indices: index of the diffusion time of each token.
    noise: Gaussian noise of each token.
    maybe_masked: the K tokens that may be masked, to which the loss keeps; None for all.
  """

  visible_ids: Int[Array, "B T V"]
  indices: Int[Array, "B R T N"]
  noise: Float[Array, "B R T N P"]
  maybe_masked: Int[Array, "B T K"] | None = None


def sample_training_noise(
    keys: Key[Array, "B"], cfg: ModelConfig, scheduler: Scheduler, num_frames: int, max_visible: int, loss_repeat: int,
    min_visible: int = 0,
) -> TrainingNoise:
  """Sample visible tokens, diffusion times and noise for each sample from its own key.

  Args:
    keys: key of each sample.
    cfg: model configuration.
    scheduler: diffusion process.
    num_frames: number T of frames.
    max_visible: padded number V of visible tokens of a frame.
    loss_repeat: number R of noised copies of each token.
    min_visible: number of tokens of a frame that are surely visible. The loss has no use for them, so the denoiser
      leaves them out; what is drawn for the others doesn't depend on it.
  """

  def sample_one(key):
    order_key, index_key, noise_key = jax.random.split(key, 3)
    # The scores are float32, since ties in half precision would favour low positions.
    order = jnp.argsort(jax.random.uniform(order_key, (num_frames, cfg.num_image_tokens)), axis=-1)
    shape = (loss_repeat, num_frames, cfg.num_image_tokens)
    noise = jax.random.normal(noise_key, (*shape, cfg.patch_dim))
    indices = scheduler.sample_indices(index_key, shape)
    return TrainingNoise(order[:, :max_visible], indices, noise, order[:, min_visible:] if min_visible else None)

  return jax.vmap(sample_one)(keys)


def training_loss(
    model: NOVA, scheduler: Scheduler, batch: Batch | Mapping[str, AnyArray], noise: TrainingNoise,
    num_visible: Int[ArrayLike, ""], history: History | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Return the loss of a batch and its parts.

  Args:
    model: transformer to train.
    scheduler: diffusion process.
    batch: latents and condition, or a mapping of the fields of `Batch`.
    noise: random choices from `sample_training_noise`.
    num_visible: number of visible tokens per frame.
    history: frames that later ones see; None for those of the batch.

  Returns:
    The scalar loss, and the values to report by name.
  """
  outputs = forward(model, scheduler, batch, noise, num_visible, history)
  loss, parts = reduce_loss(outputs["error"], outputs["mask"])
  if outputs["canvas_error"] is None:
    return loss, parts
  canvas = outputs["canvas_error"].mean()
  return loss + canvas, parts | {"loss_canvas": canvas}


def forward(
    model: NOVA, scheduler: Scheduler, batch: Batch | Mapping[str, AnyArray], noise: TrainingNoise,
    num_visible: Int[ArrayLike, ""], history: History | None = None,
) -> dict[str, Any]:
  """Run all parts of the model on a batch, and return the output of each part by name.

  Returns:
    `temporal` [B, T, M, D] before scaling & shift, `spatial` [B, T, K, D], `noised`, `prediction` [B, R, T, K, P],
    `time` [B, R, T, K], `error` [B, R, T, K], `mask` [B, T, K] (1 = masked), and `canvas_error` [B, T],
    which is None without a canvas. The K tokens are `noise.maybe_masked`, or all in place.
  """
  batch = as_batch(batch)
  cfg, latents = model.cfg, jnp.asarray(batch.latents)
  batch_size, num_frames = latents.shape[:2]
  # Temporal autoregression over frames.
  seen = History(latents) if history is None else history
  temporal = model.temporal(seen.latents, model.embed_condition(batch.condition), seen.noise_level)
  cond = model.anchor(temporal).reshape(batch_size * num_frames, -1, cfg.width)
  # Masked autoregression within each frame.
  patches = patchify(latents, cfg.patch_size)
  visible_ids = noise.visible_ids.reshape(batch_size * num_frames, -1)
  mask = visible_to_mask(visible_ids, num_visible, cfg.num_image_tokens)
  canvas = model.predict_canvas(cond)
  tokens = model.mask_tokens(
      patches.reshape(batch_size * num_frames, *patches.shape[2:]), mask[..., None],
      None if canvas is None else jax.lax.stop_gradient(canvas))  # Its own error alone trains it.
  spatial = model.image_encoder(tokens, visible_ids, num_visible, cond).reshape(*patches.shape[:3], cfg.width)
  spatial = constrain(spatial, "batch", None, "sequence", None)
  # Diffusion of each token that may be masked. The condition is projected once for all repeats.
  mask = mask.reshape(batch_size, num_frames, -1)
  take = functools.partial(_take_tokens, ids=noise.maybe_masked)
  x, spatial, mask = map(take, (patches, spatial, mask))
  eps, indices = (jax.vmap(take, 1, 1)(each) for each in (noise.noise, noise.indices))
  x, z = x[:, None], model.image_decoder.condition(spatial)[:, None]
  noised, time = scheduler.add_noise(x, eps, indices), scheduler.network_time(indices)
  prediction = model.image_decoder(noised, time, z, ("batch", None, None, "sequence"))
  error = jnp.square(prediction - scheduler.target(x, eps, indices)).mean(-1)
  canvas_error = None if canvas is None else jnp.square(canvas.reshape(patches.shape) - patches).mean((2, 3))
  if batch.given is not None:
    # Errors of given frames count as zeros, so that every clip has the same weight in any micro-batch.
    error = jnp.where(jnp.arange(num_frames)[:, None] < batch.given[:, None, None, None], 0, error)
    if canvas_error is not None:
      canvas_error = jnp.where(jnp.arange(num_frames) < batch.given[:, None], 0, canvas_error)
  return {
      "temporal": temporal, "spatial": spatial, "noised": noised, "time": time, "prediction": prediction,
      "error": error, "mask": mask, "canvas_error": canvas_error}


def _take_tokens(values: Shaped[Array, "B T N ..."], ids: Int[Array, "B T K"] | None) -> Shaped[Array, "B T K ..."]:
  """Return the values of some tokens of each frame, or those of all."""
  return values if ids is None else jax.vmap(gather_tokens)(values, ids)


def visible_to_mask(
    visible_ids: Int[Array, "B V"], num_visible: Int[ArrayLike, ""], num_tokens: int,
) -> Float[Array, "B N"]:
  """Return 1 for masked tokens and 0 for visible ones; ids after the first `num_visible` are padding."""
  ids = jnp.where(jnp.arange(visible_ids.shape[1]) < num_visible, visible_ids, num_tokens)
  return scatter_tokens(jnp.ones((visible_ids.shape[0], num_tokens)), ids, jnp.zeros(ids.shape))


def reduce_loss(
    error: Float[Array, "B R T N"], mask: Float[Array, "B T N"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Average the errors of masked tokens; for clips, report frame 0 and the other frames separately."""
  num_repeats, num_frames = error.shape[1:3]
  weights = mask[:, None]
  per_frame = (error * weights).sum((0, 1, 3)) / (num_repeats * weights.sum() + 1e-5)
  if num_frames == 1:
    return per_frame[0], {"loss": per_frame[0]}
  first = per_frame[0] * num_frames
  later = per_frame[1:].sum() * (num_frames / (num_frames - 1))
  return first + later, {"loss": first + later, "loss_t2i": first, "loss_i2i": later}


def loss(
    model: NOVA, scheduler: Scheduler, batch: Batch | Mapping[str, AnyArray], key: Key[Array, ""], loss_repeat: int = 4,
    mask_ratio: tuple[float, float] = (0.7, 1.0),
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Return the loss of a batch and the values to report by name; a training loop needs nothing else.

  The fraction of masked tokens is sampled once per call, from a normal distribution around 1 with a standard deviation
  of 0.25, truncated to `mask_ratio`. Visible tokens are padded to their largest number, so that shapes are static.

  Args:
    model: transformer to train.
    scheduler: diffusion process.
    batch: latents and condition, as in `training_loss`.
    key: random key of the step, from which all randomness derives.
    loss_repeat: number R of noised copies of each token.
    mask_ratio: smallest and largest fraction of masked tokens.
  """
  batch = as_batch(batch)
  cfg, (batch_size, num_frames) = model.cfg, batch.latents.shape[:2]
  ratio_key, noise_key = jax.random.split(key)
  min_visible, max_visible = (round((1 - fraction) * cfg.num_image_tokens) for fraction in reversed(mask_ratio))
  keys = jax.random.split(noise_key, batch_size)
  noise = sample_training_noise(keys, cfg, scheduler, num_frames, max(max_visible, 1), loss_repeat, min_visible)
  low, high = ((fraction - 1) / 0.25 for fraction in mask_ratio)
  ratio = 1 + 0.25 * jax.random.truncated_normal(ratio_key, low, high)
  num_visible = jnp.clip(jnp.round((1 - ratio) * cfg.num_image_tokens), min_visible, max_visible).astype(jnp.int32)
  return training_loss(model, scheduler, batch, noise, num_visible)
