"""Whether what a caller gives as arrays, and how much is asked for, fits a model and this machine.

Invariant: all of it is found out before anything is generated.
"""

import math

import numpy as np

from nova_jax.config import ModelConfig
from nova_jax.pipeline.given_frames import Start
from nova_jax.pipeline.request import Request
from nova_jax.sampling.plan import Plan
from nova_jax.sampling.sampler import Noise
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError


def check_size(batch: int, num_frames: int, size: tuple[int, int]) -> None:
  """Refuse more clips or pixels than one call makes.

  Args:
    batch: clips.
    num_frames: frames of each.
    size: height and width of a frame.
  """
  if batch > limits.BATCH:
    raise UserError(f"expected at most {limits.BATCH:,} clips at once (limits.BATCH), got {batch:,}")
  pixels = batch * num_frames * math.prod(size)
  if pixels > limits.REQUEST_PIXELS:
    raise UserError(
        f"{batch:,} clips of {num_frames:,} frames of {size[0]} x {size[1]} are {pixels:,} pixels; expected at most "
        f"{limits.REQUEST_PIXELS:,} (limits.REQUEST_PIXELS): ask for fewer clips at once (num_samples, batch_size) or "
        "fewer frames (num_frames)")


def check_arrays(cfg: ModelConfig, plan: Plan, batch: int, start: Start, request: Request) -> None:
  """Refuse arrays that are not finite, or whose shapes don't fit what is asked for.

  Args:
    cfg: the model.
    plan: what is generated.
    batch: clips.
    start: what they start from.
    request: has `order` and `noise`.

  Raises:
    ValueError: what a caller gave.
    FloatingPointError: latents that the autoencoder made.
  """
  latent, num_tokens, num_given = (*cfg.latent_size, cfg.latent_dim), cfg.num_image_tokens, 0
  if start.given is not None:
    num_given = start.given.shape[1] if start.given.ndim == 5 else 0
    if start.given.shape != (batch, num_given, *latent) or num_given > plan.num_frames:
      raise UserError(
          f"given: expected {batch} clips of at most {plan.num_frames} latents of {latent}, got {start.given.shape}")
  for latents in (start.given, start.known and start.known.latents):
    if latents is not None and not np.isfinite(latents).all():
      if request.given is not None:
        raise UserError("given: expected finite latents, got an infinity or NaN")
      raise FloatingPointError("the autoencoder made latents of the given frames that are not finite")
  order, noise = request.order, noise_of(request)
  if order is not None and not np.array_equal(np.sort(order, axis=-1), [np.arange(num_tokens)] * batch):
    raise UserError(f"order: expected {batch} permutations of {num_tokens} tokens, got shape {np.shape(order)}")
  if noise is not None:
    if len(plan.sets) != len(plan.later_sets) or start.known is not None:
      raise UserError("noise: it is for equal sets in all frames, so give neither later_inference_steps nor mask")
    sets = (plan.num_frames - num_given, len(plan.sets))
    steps = (*sets, len(plan.table.time), batch, *latent) if plan.adds_noise else None
    got = noise.start.shape, None if noise.steps is None else noise.steps.shape
    if got != ((*sets, batch, *latent), steps):
      raise UserError(
          f"noise: expected start {(*sets, batch, *latent)} and steps {steps}, got {got[0]} and {got[1]}")
    if not all(np.isfinite(part).all() for part in noise if part is not None):
      raise UserError("noise: expected finite numbers, got an infinity or NaN")


def noise_of(request: Request) -> Noise | None:
  """Return the noise of a request as both of its parts."""
  noise = request.noise
  return noise if noise is None or isinstance(noise, Noise) else Noise(np.asarray(noise))
