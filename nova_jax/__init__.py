"""NOVA, autoregressive video generation without vector quantization, for TPU pods.

Glossary of array axes, used in all signatures:
  B batch   T latent frames   N image tokens a frame   M video tokens a frame (N/4)   S sequence   L text tokens
  P prefix tokens, or values of a patch   D width   H heads   K head dim, or diffusion steps   V visible tokens
  R noised copies of a token   E width of a text embedding   h, w, C height, width and channels of a latent
Latents and pixels are channels-last, [B, T, height, width, channel].
"""

import importlib

__all__ = ["Noise", "Pipeline"]  # noqa: F822 (found by __getattr__)

_HOMES = {"Noise": "nova_jax.sampling.sampler", "Pipeline": "nova_jax.pipeline"}


def __getattr__(name: str) -> type:
  """Import what is asked for: processes that only read or decode data start without JAX."""
  if name not in _HOMES:
    raise AttributeError(f"module 'nova_jax' has no attribute {name!r}")
  return getattr(importlib.import_module(_HOMES[name]), name)
