"""Settings of a run that makes samples for a benchmark."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nova_jax.pipeline.request import SETTINGS

# Settings of `Request` that a run may choose: how to sample, and for how long.
SAMPLED = ("num_frames", *(name for name, declared in SETTINGS.items() if declared.scope == "sampling"))
_STORED = ("num_frames", "num_inference_steps", "num_diffusion_steps", "guidance_scale", "motion_flow", "fps")


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the bytes of the samples depend on, beside the prompts; None takes the model's own default."""

  checkpoint: str
  weights: str = "ema"  # Of a training run, one of `choice.WEIGHTS`.
  step: int | str | None = None  # Of the checkpoint of a training run, or "best".
  dtype: str = "float32"  # Of activations.
  lora: Mapping[str, float] = dataclasses.field(default_factory=dict)  # Weights of LoRAs by folder.
  quantize: Mapping[str, str] = dataclasses.field(default_factory=dict)  # 8-bit numbers of matrices, by part.
  guide: str = ""  # Model that guides in place of unconditional passes, or weights of the same run.
  batch_size: int = 8
  seed: int = 0
  sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # Settings of `Request`, some of `SAMPLED`.

  def stored(self) -> dict[str, Any]:
    """Return all as a manifest has it; settings that manifests had from the beginning are always there."""
    values = dataclasses.asdict(self)
    sampling, seed = values.pop("sampling"), values.pop("seed")
    for name in ("lora", "quantize", "guide"):
      if not values[name]:
        values.pop(name)
    return values | dict.fromkeys(_STORED) | sampling | {"seed": seed}
