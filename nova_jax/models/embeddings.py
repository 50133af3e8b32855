"""Positions, patches and condition tokens.

`ModelConfig.rotary` chooses between absolute sinusoidal positions, which are added to the tokens, and a 3-D rotation of
queries and keys. Both use a row-major integer grid from 0. Condition tokens are at (0, 0, 0) or have no position.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, Real

from nova_jax.config import ModelConfig
from nova_jax.models.layers import MLP, Buffer, LayerNorm, Linear, parameter
from nova_jax.parallel.sharding import gather_weight
from nova_jax.utils.arrays import AnyArray
from nova_jax.utils.errors import UserError

MAX_TEXT_LEN = 512  # Number of rows of the null table in published checkpoints.
MAX_PERIOD = 10000.0
LABEL_AXES = ("vocab", "embed")


class Rotation(NamedTuple):
  """Cosines and sines of the rotation angle of each token and pair of channels."""

  cos: Float[Array, "... S pairs"]
  sin: Float[Array, "... S pairs"]


def rotary_positions(num_frames: int, grid: tuple[int, int], start: int = 0) -> Int[np.ndarray, "S 3"]:
  """Return the positions (t, h, w) of the tokens of frames `start` … `start + num_frames − 1`."""
  t, h, w = np.meshgrid(np.arange(start, start + num_frames), *map(np.arange, grid), indexing="ij")
  return np.stack([t, h, w], axis=-1).reshape(-1, 3)


def rotation(positions: Real[Array, "... S 3"], head_dim: int) -> Rotation:
  """Return the 3-D rotary table: an eighth of the channels for time, the rest half for height, half for width."""
  time_dim = head_dim // 8
  space_dim = (head_dim - time_dim) // 2
  angles = []
  for axis, dim in enumerate((time_dim, space_dim, space_dim)):
    frequencies = MAX_PERIOD ** -(np.arange(0, dim, 2, dtype=np.float32) / dim)
    angles.append(positions[..., axis, None].astype(jnp.float32) * frequencies)
  angles = jnp.concatenate(angles, axis=-1)
  return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B S H K"], table: Rotation) -> Float[Array, "B S H K"]:
  """Rotate interleaved pairs of channels: (x₀ cos − x₁ sin, x₀ sin + x₁ cos)."""
  cos, sin = table.cos[..., :, None, :].astype(x.dtype), table.sin[..., :, None, :].astype(x.dtype)
  x0, x1 = jnp.moveaxis(x.reshape(*x.shape[:-1], -1, 2), -1, 0)
  return jnp.stack([x0 * cos - x1 * sin, x0 * sin + x1 * cos], axis=-1).reshape(x.shape)


def sincos(values: Float[AnyArray, "..."], dim: int = 256) -> Float[Array, "... dim"]:
  """Embed numbers as [sines, cosines] of dim/2 frequencies from 1 to 1/10000."""
  frequencies = MAX_PERIOD ** -(np.arange(dim // 2, dtype=np.float32) / (dim // 2))
  angles = jnp.asarray(values, jnp.float32)[..., None] * frequencies
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def space_embedding(dim: int, grid: tuple[int, int]) -> Float[np.ndarray, "N D"]:
  """Return the fixed absolute embeddings [sin w, cos w, sin h, cos h] of a row-major grid."""
  frequencies = MAX_PERIOD ** -(np.arange(dim // 4, dtype=np.float32) / (dim // 4))
  h, w = np.meshgrid(*map(np.arange, grid), indexing="ij")
  h, w = h.reshape(-1, 1) * frequencies, w.reshape(-1, 1) * frequencies
  return np.concatenate([np.sin(w), np.cos(w), np.sin(h), np.cos(h)], axis=-1).astype(np.float32)


class VideoPosEmbed(nnx.Module):
  """Absolute positions of video tokens: fixed ones within a frame, plus a learned map of the frame's stretched time."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.time_proj = MLP(256, cfg.width, cfg.width, jax.nn.silu, rngs=rngs)
    self.norm = LayerNorm(cfg.width)

  def __call__(self, num_frames: int) -> Float[Array, "T M D"]:
    """Return the positions for a video of `num_frames` latent frames, over which time is stretched."""
    time = jnp.arange(num_frames, dtype=jnp.float32) / (num_frames / self.cfg.base_frames)
    time = self.norm(self.time_proj(sincos(time).astype(self.cfg.dtype)))
    return time[:, None] + space_embedding(self.cfg.width, self.cfg.video_grid).astype(self.cfg.dtype)


def patchify(x: Float[Array, "... h w C"], patch: int) -> Float[Array, "... N P"]:
  """Split frames into row-major tokens, whose values are in the order row, column, channel."""
  return rearrange(x, "... (h p) (w q) c -> ... (h w) (p q c)", p=patch, q=patch)


def unpatchify(x: Float[Array, "... N P"], grid: tuple[int, int], patch: int) -> Float[Array, "... h w C"]:
  """Undo `patchify`."""
  return rearrange(x, "... (h w) (p q c) -> ... (h p) (w q) c", h=grid[0], w=grid[1], p=patch, q=patch)


class PatchEmbed(nnx.Module):
  """A linear map of patch values, which is a convolution whose stride equals its kernel size."""

  def __init__(self, patch_dim: int, dim: int, *, rngs: nnx.Rngs):
    self.proj = Linear((patch_dim,), (dim,), ("patch", "embed"), rngs=rngs)

  def __call__(self, patches: Float[Array, "... P"]) -> Float[Array, "... D"]:
    return self.proj(patches)


class TextEmbed(nnx.Module):
  """Maps text embeddings to condition tokens; a fixed null table fills positions without text.

  Row i of the table fills position i if the caption ends before it: after a short caption, for a dropped one, and in
  the unconditional branch of guidance (a caption of length 0).
  """

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    if cfg.text_len > MAX_TEXT_LEN:
      raise UserError(f"model.text_len: at most {MAX_TEXT_LEN} (rows of the null table), got {cfg.text_len}")
    assert cfg.text_dim is not None  # Of a model that takes texts.
    self.proj = Linear((cfg.text_dim,), (cfg.width,), ("text", "embed"), rngs=rngs)
    self.norm = LayerNorm(cfg.width)
    table = 0.02 * jax.random.normal(rngs.params(), (MAX_TEXT_LEN, cfg.text_dim))
    self.weight = parameter(table, ("vocab", "text"), Buffer)

  def __call__(
      self, embeds: Float[AnyArray, "B L E"], lengths: Int[AnyArray, "B"], dtype: str
  ) -> Float[Array, "B L D"]:
    positions = jnp.arange(embeds.shape[1])
    padded = jnp.where((positions < lengths[:, None])[..., None], embeds, self.weight[: len(positions)])
    return self.norm(self.proj(padded.astype(dtype)))


class LabelEmbed(nnx.Module):
  """Maps a class label to one condition token; the last row of the table means "no class"."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    assert cfg.num_classes is not None  # Of a model that takes classes.
    table = 0.02 * jax.random.normal(rngs.params(), (cfg.num_classes + 1, cfg.width))
    self.weight = parameter(table, LABEL_AXES)
    self.norm = LayerNorm(cfg.width)

  def __call__(self, labels: Int[AnyArray, "B"], dtype: str) -> Float[Array, "B 1 D"]:
    return self.norm(gather_weight(self.weight[...], LABEL_AXES)[labels][:, None].astype(dtype))


class NoiseEmbed(nnx.Module):
  """Maps the standard deviation of the noise on a frame to a vector that is added to its tokens, at first zero."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.noise_proj = MLP(256, cfg.width, cfg.width, jax.nn.silu, rngs=rngs)
    self.noise_proj.fc2.kernel[...] = jnp.zeros_like(self.noise_proj.fc2.kernel[...])

  def __call__(self, level: Float[AnyArray, "..."], dtype: str) -> Float[Array, "... D"]:
    return self.noise_proj(sincos(1000 * jnp.asarray(level)).astype(dtype))


class MotionEmbed(nnx.Module):
  """Maps the motion score and the frames per second to two condition tokens."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.flow_proj = MLP(256, cfg.width, cfg.width, jax.nn.silu, rngs=rngs)
    self.fps_proj = MLP(256, cfg.width, cfg.width, jax.nn.silu, rngs=rngs)

  def __call__(self, flow: Float[AnyArray, "B"], fps: Float[AnyArray, "B"], dtype: str) -> Float[Array, "B 2 D"]:
    return jnp.stack([self.flow_proj(sincos(flow).astype(dtype)), self.fps_proj(sincos(fps).astype(dtype))], axis=1)
