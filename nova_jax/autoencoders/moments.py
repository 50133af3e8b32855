"""What an autoencoder says of a latent before it is sampled: its moments, and the way from them to latents.

  moments = [mean | log-variance], channels last
  latent = (mean + exp(log-variance / 2) · noise − shift) · factor
"""

import numpy as np
from jaxtyping import Float

LOGVAR_RANGE = (-30.0, 20.0)


def mean_and_std(
    moments: Float[np.ndarray, "... M"], latent_dim: int
) -> tuple[Float[np.ndarray, "... C"], Float[np.ndarray, "... #C"] | float]:
  """Split moments into means and standard deviations of latents, which are not scaled."""
  mean, logvar = moments[..., :latent_dim], moments[..., latent_dim:]
  # One logvar serves all channels, or each has its own; without any, latents are certain.
  std = np.exp(0.5 * logvar.clip(*LOGVAR_RANGE)) if logvar.shape[-1] else 0.0
  return mean, std
