"""The keys and the noise of a generation: each sample draws its own."""

import functools

import jax
from jaxtyping import Array, Float, Key

from nova_jax.config import ModelConfig


def fold(keys: Key[Array, "B"], data: int) -> Key[Array, "B"]:
  """Derive keys for one use from keys of samples."""
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


@functools.partial(jax.jit, static_argnames=("cfg", "num_steps"))
def draw_noise(
    keys: Key[Array, "B"], cfg: ModelConfig, num_steps: int,
) -> tuple[Float[Array, "B N P"], Float[Array, "K B N P"] | None]:
  """Draw a whole frame's starting noise, and the noise of `num_steps` diffusion steps if there are any."""
  shape = (cfg.num_image_tokens, cfg.patch_dim)
  start = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), shape))(keys)
  if not num_steps:
    return start, None
  return start, jax.vmap(
      lambda key: jax.random.normal(jax.random.fold_in(key, 1), (num_steps, *shape)), out_axes=1)(keys)
