"""Floating-point operations of the parts that training and generation share; a product [m, k] × [k, n] counts 2mkn."""

from nova_jax.config import ModelConfig

SINCOS_DIM = 256


def block_flops(cfg: ModelConfig, tokens: float, keys: float) -> float:
  """Return the operations of a transformer block for some tokens, which all see `keys` keys."""
  return 24 * cfg.width**2 * tokens + 4 * cfg.width * tokens * keys


def denoiser_parts(cfg: ModelConfig) -> tuple[float, float, float]:
  """Return a token's operations in the denoiser: once for its condition; each time, without blocks; in its blocks."""
  d, w = cfg.width, cfg.denoiser_width
  return 2 * (d * w + w**2), 2 * w * (2 * cfg.patch_dim + SINCOS_DIM + w) + 4 * w**2, 10 * w**2 * cfg.denoiser_depth


def condition_flops(cfg: ModelConfig) -> float:
  """Return the operations that embed a sample's text and motion."""
  text = 2 * cfg.width * cfg.text_dim * cfg.text_len if cfg.text_dim else 0
  return text + (2 * 2 * (SINCOS_DIM * cfg.width + cfg.width**2) if cfg.has_motion else 0)


def mixer_flops(cfg: ModelConfig) -> float:
  """Return a video token's operations in scaling & shift."""
  if cfg.mixer_rank is None:
    return 0
  rank = cfg.mixer_rank
  return 2 * (cfg.width * rank + rank * 2 * cfg.width if rank > 0 else 2 * cfg.width**2)
