"""Floating-point operations of generation, counted as in `train/flops.py`.

With M condition tokens a frame, N image tokens, `known` of them written, a set of n tokens and K diffusion steps:

  spatial encoder  ⌊depth/2⌋·block(M+known, M+known) + (⌈depth/2⌉ − 1)·block(M+N, M+N) + last block
  last block       6·D²·(M+N) + n·(18·D² + 4·D·(M+N)), keys and values of all tokens and the rest for the set's alone
  denoiser         n·(condition + K·step) and K embeddings of times, which all tokens share

Where features are reused, fewer tokens go through the blocks and see the keys of all others; where the difference
between the passes of guidance is, the conditional pass is run alone. Sizes are real, not padded ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

from nova_jax.config import ModelConfig
from nova_jax.models.flops import SINCOS_DIM, attention_width, block_flops, condition_flops, denoiser_parts, mixer_flops
from nova_jax.sampling.plan import Plan


class SpatialFlops(NamedTuple):
  """Operations of the spatial stage."""

  encoder: float
  denoiser: float

  @property
  def total(self) -> float:
    return sum(self)


def spatial_flops(plan: Plan, num_given: int = 0) -> SpatialFlops:
  """Return the operations that the spatial stage takes for one clip, of which `num_given` frames are given."""
  encoder = denoiser = 0.0
  for frame in range(num_given, plan.num_frames):
    sets = plan.sets_for(frame)
    for i, each in enumerate(sets):
      num_new = sets[i - 1].size if i % plan.refresh_every else None
      num_kept = None
      if plan.guidance_every > 1 and plan.guidance.num_passes > 1:
        num_kept = 0 if i % plan.guidance_every else sum(other.size for other in sets[i : i + plan.guidance_every])
      flops = set_flops(plan, each.phase, each.start, each.size, num_new, num_kept)
      encoder, denoiser = encoder + flops.encoder, denoiser + flops.denoiser
  return SpatialFlops(encoder, denoiser)


def set_flops(
    plan: Plan, phase: float, known: int, size: int, num_new: int | None = None, num_kept: int | None = None,
    batch_size: int = 1, unit: int = 1,
) -> SpatialFlops:
  """Return the operations that the spatial stage takes for one set of tokens.

  Args:
    plan: how clips are generated.
    phase: how far the set is through its frame, which tells its diffusion steps.
    known, size: number of tokens known before, and of the set.
    num_new: number of known tokens whose features are computed; None for those of all tokens.
    num_kept: number of tokens whose differences between the passes of guidance are kept; 0 to use those that were,
      None if there are none.
    batch_size: number of clips.
    unit: side of the matrix unit, as in `attention_width`.
  """
  cfg, passes, times = plan.cfg, plan.guidance.num_passes, plan.table_at(phase).time
  if num_kept:  # The differences of the next sets' tokens are computed, too.
    encoder = passes * encode_flops(cfg, known, num_kept, unit=unit)
  else:
    encoder = (passes if num_kept is None else 1) * encode_flops(cfg, known, size, num_new, unit)
  num_guided = plan.guidance.span(times)[1]
  denoiser = (
      denoise_flops(cfg, size, num_guided, passes * batch_size)
      + denoise_flops(cfg, size, len(times) - num_guided, batch_size)
      + batch_size * size * passes * denoiser_parts(cfg)[0])
  return SpatialFlops(batch_size * encoder, denoiser)


def encode_flops(
    cfg: ModelConfig, known: int, size: int, num_new: int | None = None, unit: int = 1,
) -> float:
  """Return the operations with which the spatial encoder encodes the tokens of a set, in one pass.

  Args:
    cfg: model configuration.
    known: number of tokens known before.
    size: number of tokens of the set.
    num_new: number of known tokens whose features are computed; None for those of all tokens.
    unit: side of the matrix unit, as in `attention_width`.
  """
  d, half = cfg.width, cfg.spatial_depth // 2
  keys_first, keys = cfg.num_video_tokens + known, cfg.num_video_tokens + cfg.num_image_tokens
  first, second = (keys_first, keys) if num_new is None else (num_new, num_new + size)
  last = 6 * d**2 * second + size * (18 * d**2 + 4 * attention_width(cfg, unit) * keys)
  return (
      half * block_flops(cfg, first, keys_first, unit)
      + (cfg.spatial_depth - half - 1) * block_flops(cfg, second, keys, unit)
      + last + 2 * d * cfg.patch_dim * cfg.num_image_tokens)


def denoise_flops(cfg: ModelConfig, size: int, num_steps: int, num_passes: int) -> float:
  """Return the operations of some diffusion steps on the tokens of a set, whose condition is projected."""
  _, step, step_blocks = denoiser_parts(cfg)
  time = 2 * cfg.denoiser_width * (SINCOS_DIM + cfg.denoiser_width)  # Embedded once a step, for all tokens.
  return num_steps * (size * num_passes * (step - time + step_blocks) + time)


def sample_flops(
    cfg: ModelConfig, batch_size: int, num_frames: int, sets: Sequence[tuple[int, int]], num_steps: int,
    num_passes: int, unit: int = 1,
) -> float:
  """Return the operations of generating a batch exactly, frame by frame with a cache.

  Args:
    cfg: model configuration.
    batch_size: number B of clips.
    num_frames: number T of frames.
    sets: for each set of a frame, how many tokens are known before it, and how many it has.
    num_steps: number K of diffusion steps.
    num_passes: number of passes of guidance.
    unit: side of the matrix unit, as in `attention_width`.
  """
  prefix, num_video = cfg.num_condition_tokens, cfg.num_video_tokens
  temporal = condition_flops(cfg)
  for t in range(num_frames):
    new = num_video + (prefix if t == 0 else 0)
    temporal += cfg.temporal_depth * block_flops(cfg, new, prefix + (t + 1) * num_video, unit)
    temporal += num_video * (2 * cfg.width * 4 * cfg.patch_dim + mixer_flops(cfg)) if t else 0
  spatial = 0.0
  for known, size in sets:
    rows = batch_size * num_passes
    spatial += rows * (encode_flops(cfg, known, size, unit=unit) + size * denoiser_parts(cfg)[0])
    spatial += denoise_flops(cfg, size, num_steps, rows)
  return batch_size * num_passes * temporal + num_frames * spatial
