"""Classifier-free guidance: which passes are run, and how their predictions become one.

  text:            renorm(u + g · (c − u))
  text and image:  renorm(u + g · (c − i)) + g_i · (i − u)

c sees the text and the frames, i the frames without text, u neither. The scale may grow from `min_scale` to `scale`
over a frame's sets; before the first time that isn't above `start`, and from the first time below `truncation` on, the
conditional prediction stands alone.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nova_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Guidance:
  """How to guide.

  Attributes:
    scale: g; at most 1 for none.
    min_scale: what the first set's scale grows from, or None for a constant scale.
    truncation: time in [0, 1000] below which guidance ends.
    renorm: lower bound of ‖c‖ / ‖guided‖, by which the guided prediction is shrunk; 1 for none.
    image_scale: g_i; 0 for none.
    start: time in [0, 1000] above which there is no guidance yet; 1000 for guidance from the beginning.
  """

  scale: float = 5.0
  min_scale: float | None = None
  truncation: float = 0.0
  renorm: float = 1.0
  image_scale: float = 0.0
  start: float = 1000.0

  def __post_init__(self):
    if not 0 <= self.renorm <= 1:
      raise UserError(f"guidance_renorm: expected a number from 0 to 1, got {self.renorm}")
    if self.image_scale < 0:
      raise UserError(f"image_guidance_scale: expected 0 or more, got {self.image_scale}")
    if self.image_scale and self.scale <= 1:
      raise UserError(f"image_guidance_scale needs guidance_scale above 1, got {self.scale}")
    if self.start < min(self.truncation, 1000):
      raise UserError(
          f"guidance_start: expected guidance_trunc, {self.truncation:g}, or more, as times fall from 1000 to 0, got "
          f"{self.start:g}")

  @property
  def num_passes(self) -> int:
    """Predictions a step: conditional; unconditional; image-conditional."""
    return 1 if self.scale <= 1 else 3 if self.image_scale else 2

  def span(self, time: Float[np.ndarray, "K"]) -> tuple[int, int]:
    """Return how many diffusion steps at these times come before guidance, and how many have it."""
    if self.num_passes == 1:
      return 0, len(time)
    before = int(np.sum(time > self.start)) if self.start < 1000 else 0  # Tables may round the first time up.
    return before, max(0, int(np.sum(time >= self.truncation)) - before)

  def strength(self, index: int, num_sets: int) -> "Strength":
    """Return the numbers for set `index` of a frame's non-empty sets."""
    scale = self.scale
    if self.min_scale is not None:
      scale = self.min_scale + (self.scale - self.min_scale) * (index + 1) / num_sets
    return Strength(scale, self.renorm, self.image_scale)


class Strength(NamedTuple):
  """Guidance of one set in numbers that a compiled step takes as arguments: a new scale compiles nothing."""

  scale: Float[Array, ""] | float
  renorm: Float[Array, ""] | float = 1.0
  image_scale: Float[Array, ""] | float = 0.0

  def combine(self, predictions: Float[Array, "passes B S P"], valid: Bool[Array, "S"]) -> Float[Array, "B S P"]:
    """Return the guided prediction of two or three passes; only `valid` tokens count for renormalisation."""
    cond, uncond = predictions[:2]
    base = predictions[2] if len(predictions) == 3 else uncond
    guided = uncond + self.scale * (cond - base)
    norm = _norm(guided, valid)
    ratio = jnp.where(norm > 0, _norm(cond, valid) / jnp.where(norm > 0, norm, 1), 1)
    guided = guided * jnp.clip(ratio, self.renorm, 1)
    return guided if base is uncond else guided + self.image_scale * (base - uncond)


def _norm(x: Float[Array, "B S P"], valid: Bool[Array, "S"]) -> Float[Array, "B 1 1"]:
  return jnp.sqrt(jnp.sum(jnp.square(x) * valid[:, None], axis=(1, 2), keepdims=True))
