"""Moments: the distribution of a latent that an autoencoder predicts, from which latents are sampled.

  moments = [mean | log-variance], channels last
  latent = (mean + exp(log-variance / 2) · noise − shift) · factor
"""

import numpy as np
from jaxtyping import Float

LOGVAR_RANGE = (-30.0, 20.0)


def mean_and_std(
    moments: Float[np.ndarray, "... M"], latent_dim: int
) -> tuple[Float[np.ndarray, "... C"], Float[np.ndarray, "... #C"] | float]:
  """Split moments into the means and standard deviations of unscaled latents."""
  mean, logvar = moments[..., :latent_dim], moments[..., latent_dim:]
  # There is one log-variance for all channels or one per channel; without any, latents are deterministic.
  std = np.exp(0.5 * logvar.clip(*LOGVAR_RANGE)) if logvar.shape[-1] else 0.0
  return mean, std
