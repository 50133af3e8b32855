"""Floating-point operations of the model, and what the machine could do.

A product [m, k] × [k, n] counts 2mkn; training counts three times the forward pass (a product's two gradients);
norms, activations, softmax and recomputation count nothing. With P condition tokens, M video and N image tokens a
frame, V of them visible, R noised copies, D and W the widths of encoders and denoiser, A attended pairs:

  block(tokens, A) = 24·D²·tokens + 4·D·A                      qkv 6D², projection 2D², MLP 16D²
  temporal         = depth·block(P + T·M, (P+M)² + Σ_{t=1}^{T−1} M·(P + (t+1)·M))
  spatial          = T·(⌊depth/2⌋·block(M+V, (M+V)²) + ⌈depth/2⌉·block(M+N, (M+N)²))
  denoiser         = T·N·(2·(D·W + W²) + R·(2·W·(2·patch + 256 + W) + 10·W²·depth + 4·W²))
  embeddings       = text, motion, patches; scaling & shift on frames after the first

The visible count is the real one, not the padded size.
"""

import time

import jax
import jax.numpy as jnp

from nova_jax.config import ModelConfig

# Dense bf16 FLOP/s of one chip, by `device_kind`.
TPU_PEAKS = {"TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12, "TPU v6 lite": 918e12}
SINCOS_DIM = 256


def forward_flops(cfg: ModelConfig, num_frames: int, num_visible: float, loss_repeat: int) -> float:
  """Return the operations of one sample's forward pass in training."""
  d, w, num_tokens, num_video = cfg.width, cfg.denoiser_width, cfg.num_image_tokens, cfg.num_video_tokens
  prefix, half = cfg.num_condition_tokens, cfg.spatial_depth // 2

  def block(tokens, pairs):
    return 24 * d**2 * tokens + 4 * d * pairs

  pairs = (prefix + num_video) ** 2 + sum(num_video * (prefix + (t + 1) * num_video) for t in range(1, num_frames))
  temporal = cfg.temporal_depth * block(prefix + num_frames * num_video, pairs)
  encode, decode = num_video + num_visible, num_video + num_tokens
  spatial = num_frames * (half * block(encode, encode**2) + (cfg.spatial_depth - half) * block(decode, decode**2))
  per_copy = 2 * w * (2 * cfg.patch_dim + SINCOS_DIM + w) + 10 * w**2 * cfg.denoiser_depth + 4 * w**2
  denoiser = num_frames * num_tokens * (2 * (d * w + w**2) + loss_repeat * per_copy)

  embeddings = 2 * d * cfg.patch_dim * (num_frames * num_tokens + (num_frames - 1) * num_video * 4)
  if cfg.text_dim:
    embeddings += 2 * d * cfg.text_dim * cfg.text_len
  if cfg.has_motion:
    embeddings += 2 * 2 * (SINCOS_DIM * d + d**2)
  if cfg.mixer_rank is not None:
    rank = cfg.mixer_rank
    embeddings += (num_frames - 1) * num_video * 2 * (d * rank + rank * 2 * d if rank > 0 else 2 * d**2)
  return temporal + spatial + denoiser + embeddings


def train_flops(cfg: ModelConfig, batch_size: int, num_frames: int, num_visible: float, loss_repeat: int) -> float:
  """Return the operations of a training step."""
  return 3 * batch_size * forward_flops(cfg, num_frames, num_visible, loss_repeat)


def matmul_peak(dtype: str) -> float:
  """Return the FLOP/s that matrix products can reach on all devices: tabulated for TPUs, timed on others."""
  device = jax.local_devices()[0]
  if device.device_kind in TPU_PEAKS:
    return TPU_PEAKS[device.device_kind] * jax.device_count()
  size = 1536 if device.platform == "cpu" else 8192
  product = jax.jit(lambda x: x @ x)
  x = jax.device_put(jnp.ones((size, size), dtype), device)
  product(x).block_until_ready()
  seconds = []
  for _ in range(3):
    start = time.perf_counter()
    product(x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  # Host devices share the cores that one product fills already.
  return 2 * size**3 / min(seconds) * (1 if device.platform == "cpu" else jax.device_count())
