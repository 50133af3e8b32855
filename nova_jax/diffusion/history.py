"""The frames that later ones learn from, so that a model learns to go on from what isn't perfect.

In training the frames before are real, in generation they are the model's own, and errors add up. Noise on them, of a
level that is drawn for each clip, teaches the model to rely on them no more than they deserve (GameNGen, arXiv
2408.14837). Rollouts put the model's own frames in the place of real ones: each frame is made in one pass from the
real frames before it, all its tokens as one set, in few diffusion steps, so that a whole clip takes one forward pass.
Invariant: targets stay real, and all that is drawn for a sample comes from its own key.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nova_jax.diffusion import Scheduler
from nova_jax.diffusion.batch import Batch
from nova_jax.models.embeddings import unpatchify
from nova_jax.models.nova import NOVA
from nova_jax.utils.arrays import AnyArray

_KEY, _ROLLOUT_KEY = 3, 4  # Behind the keys that `sample_training_noise` splits off.
_STEPS = 4  # Diffusion steps of the model's own frames.


class History(NamedTuple):
  """Latent frames as the frames after them see them.

  Attributes:
    latents: frames.
    noise_level: standard deviation of the noise on each clip.
  """

  latents: Float[AnyArray, "B T h w C"]
  noise_level: Float[AnyArray, "#B"] | float = 0.0


def make_history(
    model: NOVA, scheduler: Scheduler, batch: Batch, keys: Key[Array, "B"], noise: float, rollout_fraction: float = 0.0,
) -> History:
  """Return the history of a training batch.

  Args:
    model: transformer, whose weights get no gradient from it.
    scheduler: diffusion process.
    batch: training batch.
    keys: key of each sample, as for `sample_training_noise`.
    noise: largest standard deviation of the noise, below which each clip's is drawn evenly; 0 for none.
    rollout_fraction: probability that a clip's frames after the first are the model's own.
  """
  latents = jnp.asarray(batch.latents)
  if rollout_fraction and latents.shape[1] > 1:
    root = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, _ROLLOUT_KEY)))(keys)
    chosen = jax.vmap(lambda key: jax.random.bernoulli(key, rollout_fraction))(root[:, 0])
    own = jax.lax.stop_gradient(roll_out(model, scheduler, batch, root[:, 1]))
    # What a model makes that has hardly been trained may be far beyond any real frame.
    own = jnp.clip(own, *(bound(latents, (1, 2, 3, 4), keepdims=True) for bound in (jnp.min, jnp.max)))
    # A first frame of the model's own would be of another clip.
    known = 1 if batch.given is None else jnp.maximum(batch.given, 1)[:, None]
    replaced = chosen[:, None] & (jnp.arange(latents.shape[1]) >= known)
    latents = jnp.where(replaced[..., None, None, None], own, latents)
  if not noise:
    return History(latents)

  def draw(key):
    level_key, noise_key = jax.random.split(jax.random.fold_in(key, _KEY))
    return noise * jax.random.uniform(level_key), jax.random.normal(noise_key, latents.shape[1:])

  level, gaussian = jax.vmap(draw)(keys)
  return History(latents + level[:, None, None, None, None] * gaussian, level)


def roll_out(model: NOVA, scheduler: Scheduler, batch: Batch, keys: Key[Array, "B"]) -> Float[Array, "B T h w C"]:
  """Return each frame as the model makes it in one pass from real frames before it.

  Args:
    model: transformer.
    scheduler: diffusion process.
    batch: training batch.
    keys: key of each sample.
  """
  cfg, latents = model.cfg, jnp.asarray(batch.latents)
  batch_size, num_frames = latents.shape[:2]
  cond = model.anchor(model.temporal(latents, model.embed_condition(batch.condition)))
  cond = cond.reshape(batch_size * num_frames, -1, cfg.width)
  shape = batch_size * num_frames, cfg.num_image_tokens
  tokens = model.mask_tokens(jnp.zeros((*shape, cfg.patch_dim)), jnp.ones((*shape, 1)), model.predict_canvas(cond))
  z = model.image_encoder(tokens, jnp.zeros((shape[0], 1), jnp.int32), 0, cond)
  z = model.image_decoder.condition(z.reshape(batch_size, num_frames, *z.shape[1:]))
  x = jax.vmap(lambda key: jax.random.normal(key, (num_frames, shape[1], cfg.patch_dim)))(keys)
  solver = next(name for name in scheduler.solvers if name != "ancestral")  # None that adds noise.
  table = scheduler.steps(_STEPS, solver=solver, grid="full")

  def step(x, row):
    time = jnp.broadcast_to(row.time, x.shape[:-1])
    prediction = model.image_decoder(x, time, z, ("batch", None, "sequence"))
    flat = lambda x: x.reshape(batch_size, -1, cfg.patch_dim)
    moved = scheduler.step(row, flat(x), flat(prediction), None, jnp.ones(num_frames * shape[1], bool))
    return moved.reshape(x.shape), None

  x, _ = jax.lax.scan(step, x, jax.tree.map(jnp.asarray, table))
  return unpatchify(x, cfg.image_grid, cfg.patch_size)
