"""The denoiser: a small MLP that predicts one token's diffusion target, given its condition (paper, section 3.4).

The condition is MLP(z) + MLP(sincos(t)). Only the second term changes between diffusion steps, so `condition` computes
the first one separately. Each block computes x += gate · LN(MLP(LN(x) · (1 + scale) + shift)), where
scale, shift, gate = Linear(SiLU(condition)).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nova_jax.config import ModelConfig
from nova_jax.models.embeddings import MAX_PERIOD, PatchEmbed
from nova_jax.models.layers import MLP, LayerNorm, Linear, normalize, scan, stack, take_apart
from nova_jax.parallel.sharding import constrain
from nova_jax.utils.arrays import AnyArray

TIME_DIM = 256
INNER_EPS = 1e-6  # For modulated norms; affine ones keep 1e-5.


class Modulation(nnx.Module):
  """Normalises without gains, then scales and shifts by the condition.

  With `num_parts` 3 it also returns a gate. With a rank, the condition passes through a narrow layer first. Without
  normalisation (`eps` None) this is NOVA's scaling & shift.
  """

  def __init__(
      self, dim: int, num_parts: int, *, rank: int | None = None, eps: float | None = INNER_EPS, rngs: nnx.Rngs,
  ):
    self.eps = eps
    self.lora = Linear((dim,), (rank,), ("embed", "rank"), use_bias=False, rngs=rngs) if rank else None
    inputs, axis = (rank, "rank") if rank else (dim, "embed")
    self.proj = Linear((inputs,), (num_parts, dim), (axis, None, "mlp"), parts=1, zero=True, rngs=rngs)

  def __call__(self, x: Float[Array, "... D"], cond: Float[Array, "... D"]) -> tuple[Float[Array, "... D"], ...]:
    """Return the modulated x, followed by the gate if there is one."""
    return self.apply(x, self.parts(cond))

  def parts(self, cond: Float[Array, "... D"]) -> Sequence[Float[Array, "... D"]]:
    """Return scale, shift and perhaps gate, which the condition alone says."""
    hidden = jax.nn.silu(cond)
    return take_apart(self.proj(hidden if self.lora is None else self.lora(hidden)), -2)

  def apply(
      self, x: Float[Array, "... D"], parts: Sequence[Float[Array, "... D"]]
  ) -> tuple[Float[Array, "... D"], ...]:
    """Return x modulated by `parts`, followed by the gate if there is one."""
    scale, shift, *gate = parts
    x = x if self.eps is None else normalize(x, self.eps).astype(x.dtype)
    return (x * (1 + scale) + shift, *gate)


class DenoiserBlock(nnx.Module):
  """A gated residual MLP."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.norm1 = Modulation(dim, 3, rngs=rngs)
    self.proj = MLP(dim, dim, dim, jax.nn.silu, rngs=rngs)
    self.norm2 = LayerNorm(dim)

  def __call__(self, x: Float[Array, "... D"], cond: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return self.apply(x, self.norm1.parts(cond))

  def apply(self, x: Float[Array, "... D"], parts: Sequence[Float[Array, "... D"]]) -> Float[Array, "... D"]:
    """Return what the block makes of x, given scale, shift and gate."""
    hidden, gate = self.norm1.apply(x, parts)
    return x + gate * self.norm2(self.proj(hidden))


class TimeCondEmbed(nnx.Module):
  """The two projections whose sum conditions the blocks."""

  def __init__(self, cond_dim: int, dim: int, *, rngs: nnx.Rngs):
    self.timestep_proj = MLP(TIME_DIM, dim, dim, jax.nn.silu, rngs=rngs)
    self.condition_proj = MLP(cond_dim, dim, dim, jax.nn.silu, rngs=rngs)


class Denoiser(nnx.Module):
  """The token-wise diffusion network (published as `image_decoder`)."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.patch_embed = PatchEmbed(cfg.patch_dim, cfg.denoiser_width, rngs=rngs)
    self.time_cond_embed = TimeCondEmbed(cfg.width, cfg.denoiser_width, rngs=rngs)
    self.blocks = stack(lambda rngs: DenoiserBlock(cfg.denoiser_width, rngs=rngs), cfg.denoiser_depth, rngs)
    self.norm = Modulation(cfg.denoiser_width, 2, rngs=rngs)
    self.head = Linear((cfg.denoiser_width,), (cfg.patch_dim,), ("embed", "patch"), zero=True, rngs=rngs)

  def condition(self, z: Float[Array, "... D"]) -> Float[Array, "... E"]:
    """Project the spatial encoder's output; the result holds for all diffusion steps of a token."""
    return self.time_cond_embed.condition_proj(z)

  def __call__(
      self, x: Float[AnyArray, "... P"], time: Float[AnyArray, "..."], cond: Float[Array, "... E"],
      axes: Sequence[str | None] | None = None,
  ) -> Float[Array, "... P"]:
    """Predict the diffusion target of noised tokens.

    Args:
      x: patch values of noised tokens.
      time: diffusion time of each token, in [0, 1000].
      cond: output of `condition` for these tokens. The leading axes of x, time and cond broadcast.
      axes: logical names of these leading axes, by which activations are sharded over a mesh.

    Returns:
      The prediction in float32.
    """
    cond = cond + self.embed_time(time, cond.dtype)
    x = self.patch_embed(jnp.asarray(x, cond.dtype))
    x = jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape[:-1], cond.shape[:-1]) + x.shape[-1:])
    # On its own XLA would shard channels like the weights, and move activations instead of weights.
    shard = lambda x: x if axes is None else constrain(x, *axes, None)
    cond = shard(cond)
    x, _ = scan(self.blocks, shard(x), None, lambda block, x, _: (shard(block(x, cond)), None), self.cfg.remat)
    (x,) = self.norm(x, cond)
    return self.head(x).astype(jnp.float32)

  def embed_time(self, time: Float[AnyArray, "..."], dtype: DTypeLike) -> Float[Array, "... E"]:
    """Project times; the result holds for all tokens of a diffusion step."""
    return self.time_cond_embed.timestep_proj(time_embedding(time).astype(dtype))

  def modulate(
      self, cond: Float[Array, "... E"], blocks: Sequence[DenoiserBlock]
  ) -> list[Sequence[Float[Array, "... E"]]]:
    """Return the parts of all modulations, the last one's behind those of the blocks, for `predict_modulated`.

    Noised tokens have no part in them, so that those of many diffusion steps can be computed at once.

    Args:
      cond: sum of the outputs of `condition` and `embed_time`.
      blocks: separate blocks from `unstack`. A stack copies each block at every step of a loop.
    """
    return [*(block.norm1.parts(cond) for block in blocks), self.norm.parts(cond)]

  def predict_modulated(
      self, x: Float[AnyArray, "... P"], modulations: Sequence[Sequence[Float[Array, "... E"]]],
      blocks: Sequence[DenoiserBlock], axes: Sequence[str | None] | None = None,
  ) -> Float[Array, "... P"]:
    """Predict as `__call__` does, given what `modulate` returns for the same blocks; `axes` as there."""
    shape, dtype = modulations[-1][0].shape[:-1], modulations[-1][0].dtype
    x = self.patch_embed(jnp.asarray(x, dtype))
    x = jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape[:-1], shape) + x.shape[-1:])
    shard = lambda x: x if axes is None else constrain(x, *axes, None)
    x = shard(x)
    for block, parts in zip(blocks, modulations[:-1], strict=True):
      x = shard(block.apply(x, [shard(part) for part in parts]))
    (x,) = self.norm.apply(x, modulations[-1])
    return self.head(x).astype(jnp.float32)


def time_embedding(time: Float[AnyArray, "..."]) -> Float[Array, "... 256"]:
  """Embed diffusion times as [cosines, sines], the reverse of the order for positions."""
  half = TIME_DIM // 2
  frequencies = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(MAX_PERIOD) / half))
  angles = jnp.asarray(time, jnp.float32)[..., None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
