"""NOVA, autoregressive video generation without vector quantization, in JAX.

Examples:
  The loss of a small model on a batch, and a frame that it generates from the batch's conditions:

  >>> import jax, nova_jax
  >>> from flax import nnx
  >>> cfg = nova_jax.ModelConfig(
  ...     latent_dim=1, latent_size=(8, 8), patch_size=2, width=32, num_heads=2, temporal_depth=1, spatial_depth=2,
  ...     denoiser_depth=1, denoiser_width=32, num_classes=10)
  >>> model = nnx.jit(lambda: nova_jax.NOVA(cfg, rngs=nnx.Rngs(0)))()
  >>> scheduler = nova_jax.FlowMatching()
  >>> batch = {"latents": jax.numpy.zeros((2, 1, 8, 8, 1)), "labels": jax.numpy.array([3, 7])}
  >>> nnx.jit(lambda model: nova_jax.loss(model, scheduler, batch, jax.random.key(0))[0])(model).shape
  ()
  >>> nova_jax.sample(model, scheduler, batch, jax.random.key(0), num_inference_steps=2).shape
  (2, 1, 8, 8, 1)

`Pipeline.load(folder)` goes from texts to pixels, `load_model(folder)` returns a trained transformer alone, and
`PRESETS` has the sizes of the released models. `examples/` holds a training loop of one's own, sampling and
fine-tuning.

Glossary of array axes, used in all signatures:
  B batch   T latent frames   N image tokens a frame   M video tokens a frame (N/4)   S sequence   L text tokens
  P prefix tokens, or values of a patch   D width   H heads   K head dim, or diffusion steps   V visible tokens
  R noised copies of a token   E width of a text embedding   h, w, C height, width and channels of a latent
Latents and pixels are channels-last, [B, T, height, width, channel].
"""

import ast
import importlib
from pathlib import Path
from typing import Any

# Where each public name lives, by the one list that there is.
_HOMES = {
    alias.asname or alias.name: (node.module or "", alias.name)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom) for alias in node.names}

__all__ = [*_HOMES, "__version__"]  # noqa: F822 (found by __getattr__)


def __getattr__(name: str) -> Any:
  """Import what is asked for: processes that only read or decode data start without JAX."""
  if name == "__version__":
    return _version()
  if name not in _HOMES:
    raise AttributeError(f"module 'nova_jax' has no attribute {name!r}")
  module, attribute = _HOMES[name]
  return getattr(importlib.import_module(module), attribute)


def _version() -> str:
  from importlib import metadata  # Takes as long as all the rest.

  try:
    return metadata.version("nova_jax")
  except metadata.PackageNotFoundError:
    return "0+unknown"  # A clone that was not installed.


def __dir__() -> list[str]:
  return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
