"""Floating-point operations of the parts that training and generation share; a product [m, k] × [k, n] counts 2mkn."""

from nova_jax.config import ModelConfig

SINCOS_DIM = 256


def attention_width(cfg: ModelConfig, unit: int) -> int:
  """Return the width of all heads together as a matrix unit computes them.

  Args:
    cfg: model configuration.
    unit: side of the unit, in whose multiples it computes a head; 1 for none.
  """
  head_dim = cfg.width // cfg.num_heads
  return cfg.num_heads * -(-head_dim // unit) * unit


def block_flops(cfg: ModelConfig, tokens: float, keys: float, unit: int = 1) -> float:
  """Return the operations of a transformer block for some tokens, which all see `keys` keys.

  Args:
    cfg: model configuration.
    tokens: number of tokens.
    keys: number of keys.
    unit: side of the matrix unit, as in `attention_width`.
  """
  return 24 * cfg.width**2 * tokens + 4 * attention_width(cfg, unit) * tokens * keys


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
