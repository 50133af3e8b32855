"""Loading a model with words: what is loaded, how large it is, and where it runs."""

import time
from typing import Any

import jax
from jax.sharding import Sharding

from nova_jax.pipeline import Pipeline
from nova_jax.utils.terminal import say


def load_pipeline(checkpoint: str, **options: Any) -> Pipeline:
  """Load a model as `Pipeline.load` does, and say so before and after."""
  say(f"loading {checkpoint}")
  started = time.perf_counter()
  pipe = Pipeline.load(checkpoint, **options)
  say(f"loaded {describe(pipe.model.state, pipe.cfg.dtype)}, in {time.perf_counter() - started:.1f} s")
  return pipe


def describe(state: Any, dtype: str, model: str = "NOVA") -> str:
  """Return "NOVA, 1.9 M parameters, float32 on 1 CPU device" for a model's weights and the precision of activations."""
  weights = jax.tree.leaves(state)
  size = sum(weight.size for weight in weights)
  unit, name = (1e9, "B") if size >= 1e9 else (1e6, "M")
  spread = {len(weight.sharding.device_set) for weight in weights if isinstance(weight.sharding, Sharding)}
  count, backend = max(spread, default=1), jax.default_backend().upper()
  return f"{model}, {size / unit:.3g} {name} parameters, {dtype} on {count} {backend} device{'s' * (count > 1)}"


def say_first_compiles() -> None:
  """Say that the first step takes longer, and where programs are kept, if they are."""
  folder = jax.config.jax_compilation_cache_dir  # ty: ignore[missing-attribute] (made when imported)
  kept = f"; programs are kept in {folder} for the next start" if folder else ""
  say(f"the first set of tokens of each shape takes longer, while its programs compile{kept}")
