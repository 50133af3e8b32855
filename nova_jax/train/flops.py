"""Floating-point operations of the model, and what the machine could do.

A product [m, k] × [k, n] counts 2mkn; training counts three times the forward pass (a product's two gradients);
norms, activations, softmax and recomputation count nothing. With P condition tokens, M video and N image tokens a
frame, V of them visible and N′ denoised, R noised copies, widths D of encoders and W of the denoiser, A attended pairs:

  block(tokens, A) = 24·D²·tokens + 4·D·A                      qkv 6D², projection 2D², MLP 16D²
  temporal         = depth·block(P + T·M, (P+M)² + Σ_{t=1}^{T−1} M·(P + (t+1)·M))
  spatial          = T·(⌊depth/2⌋·block(M+V, (M+V)²) + ⌈depth/2⌉·block(M+N, (M+N)²))
  denoiser         = T·N′·(2·(D·W + W²) + R·(2·W·(2·patch + 256 + W) + 10·W²·depth + 4·W²))
  embeddings       = text, motion, patches; scaling & shift on frames after the first

The visible count is the real one, not the padded size. Utilization (MFU) is train_flops / seconds / peak: exact areas
of masks, no recomputation. `sampling/flops.py` counts generation.
"""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nova_jax.config import ModelConfig
from nova_jax.models.flops import attention_width, condition_flops, denoiser_parts, mixer_flops
from nova_jax.utils.chips import find_chip, peak_flops


class Flops(NamedTuple):
  """Operations of a forward pass, apart by what the backward pass may recompute of them."""

  attention: float  # Scores and weighted sums of both encoders.
  blocks: float  # The rest of both encoders' blocks, and the denoiser's.
  other: float
  hidden: float  # Those of `blocks` that compute the hidden values of both encoders' MLPs.

  @property
  def total(self) -> float:
    return self.attention + self.blocks + self.other


def forward_parts(
    cfg: ModelConfig, num_frames: int, num_visible: float, loss_repeat: int, unit: int = 1, num_spared: int = 0,
) -> Flops:
  """Return the operations of one sample's forward pass in training.

  Args:
    cfg: model configuration.
    num_frames: number T of frames.
    num_visible: number V of visible tokens of a frame.
    loss_repeat: number R of noised copies of each token.
    unit: side of the matrix unit, as in `attention_width`.
    num_spared: number of tokens of a frame that the denoiser leaves out.
  """
  d, num_tokens, num_video = cfg.width, cfg.num_image_tokens, cfg.num_video_tokens
  prefix, half = cfg.num_condition_tokens, cfg.spatial_depth // 2
  encode, decode = num_video + num_visible, num_video + num_tokens

  pairs = (prefix + num_video) ** 2 + sum(num_video * (prefix + (t + 1) * num_video) for t in range(1, num_frames))
  spatial_pairs = half * encode**2 + (cfg.spatial_depth - half) * decode**2
  attention = 4 * attention_width(cfg, unit) * (cfg.temporal_depth * pairs + num_frames * spatial_pairs)
  tokens = half * encode + (cfg.spatial_depth - half) * decode
  blocks = 24 * d**2 * (cfg.temporal_depth * (prefix + num_frames * num_video) + num_frames * tokens)
  hidden = blocks / 3  # 8 of 24: see above.
  condition, step, step_blocks = denoiser_parts(cfg)
  denoised = num_frames * (num_tokens - num_spared)
  blocks += denoised * loss_repeat * step_blocks
  other = denoised * (condition + loss_repeat * step)

  other += 2 * d * cfg.patch_dim * (num_frames * num_tokens + (num_frames - 1) * num_video * 4)
  other += condition_flops(cfg) + (num_frames - 1) * num_video * mixer_flops(cfg)
  return Flops(attention, blocks, other, hidden)


def forward_flops(
    cfg: ModelConfig, num_frames: int, num_visible: float, loss_repeat: int, num_spared: int = 0
) -> float:
  """Return the operations of one sample's forward pass in training, as `forward_parts` counts them."""
  return forward_parts(cfg, num_frames, num_visible, loss_repeat, num_spared=num_spared).total


def train_flops(
    cfg: ModelConfig, batch_size: int, num_frames: int, num_visible: float, loss_repeat: int, num_spared: int = 0
) -> float:
  """Return the operations of a training step."""
  return 3 * batch_size * forward_flops(cfg, num_frames, num_visible, loss_repeat, num_spared)


def executed_flops(
    cfg: ModelConfig, batch_size: int, num_frames: int, num_visible: float, loss_repeat: int, unit: int = 1,
) -> float:
  """Return the operations of a training step with what is computed again, which utilization doesn't count.

  `num_visible` is the padded size here. "block" and "offload" repeat all blocks' forward pass, "mlp" a
  third of the encoders' products; splash attention's
  backward kernel makes five products where four would do. A matrix unit of side `unit` computes narrower heads as if
  they were as wide as itself.
  """
  parts = forward_parts(cfg, num_frames, num_visible, loss_repeat, unit)
  again = parts.blocks + parts.attention if cfg.remat in ("block", "offload") else 0
  again += parts.hidden if cfg.remat == "mlp" else 0
  if cfg.attention == "splash":
    again += 0.5 * parts.attention
  return batch_size * (3 * parts.total + again)


@functools.cache
def matmul_peak(dtype: str) -> float:
  """Return the FLOP/s that matrix products can reach on all devices: tabulated for TPUs, timed on others.

  On TPUs it depends on JAX's matmul precision, `jax_default_matmul_precision`; see `peak_flops`.
  """
  device = jax.local_devices()[0]
  chip = find_chip(device.device_kind)
  if chip is not None:
    precision = jax.config.jax_default_matmul_precision  # ty: ignore[missing-attribute] (made when imported)
    return peak_flops(chip, dtype, precision) * jax.device_count()
  size = 1536 if device.platform == "cpu" else 8192
  product = jax.jit(lambda x: x @ x)
  x = jax.device_put(jnp.ones((size, size), dtype), device)
  product(x).block_until_ready()
  seconds = []
  for _ in range(10):  # The best counts, since something else may run beside some of them.
    start = time.perf_counter()
    product(x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  # Host devices share the cores that one product fills already.
  return 2 * size**3 / min(seconds) * (1 if device.platform == "cpu" else jax.device_count())
