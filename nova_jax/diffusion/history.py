"""The frames that later ones learn from, so that a model learns to go on from what isn't perfect.

In training the frames before are real, in generation they are the model's own, and errors add up. Noise on them, of a
level that is drawn for each clip, teaches the model to rely on them no more than they deserve (GameNGen, arXiv
2408.14837).
Invariant: targets stay real, and all that is drawn for a sample comes from its own key.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nova_jax.diffusion.batch import Batch
from nova_jax.utils.arrays import AnyArray

_KEY = 3  # Behind the keys that `sample_training_noise` splits off.


class History(NamedTuple):
  """Latent frames as the frames after them see them.

  Attributes:
    latents: frames.
    noise_level: standard deviation of the noise on each clip.
  """

  latents: Float[AnyArray, "B T h w C"]
  noise_level: Float[AnyArray, "#B"] | float = 0.0


def make_history(batch: Batch, keys: Key[Array, "B"], noise: float) -> History:
  """Return the history of a training batch.

  Args:
    batch: training batch.
    keys: key of each sample, as for `sample_training_noise`.
    noise: largest standard deviation of the noise, below which each clip's is drawn evenly; 0 for none.
  """
  latents = jnp.asarray(batch.latents)
  if not noise:
    return History(latents)

  def draw(key):
    level_key, noise_key = jax.random.split(jax.random.fold_in(key, _KEY))
    return noise * jax.random.uniform(level_key), jax.random.normal(noise_key, latents.shape[1:])

  level, gaussian = jax.vmap(draw)(keys)
  return History(latents + level[:, None, None, None, None] * gaussian, level)
