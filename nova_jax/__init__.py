"""NOVA, autoregressive video generation without vector quantization, for TPU pods.

Glossary of array axes, used in all signatures:
  B batch   T latent frames   N image tokens a frame   M video tokens a frame (N/4)   S sequence   L text tokens
  P prefix tokens, or values of a patch   D width   H heads   K head dim, or diffusion steps   V visible tokens
  R noised copies of a token   E width of a text embedding   h, w, C height, width and channels of a latent
Latents and pixels are channels-last, [B, T, height, width, channel].
"""

from nova_jax.pipeline import Pipeline
from nova_jax.sampling.sampler import Noise

__all__ = ["Noise", "Pipeline"]
