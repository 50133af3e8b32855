"""Access to the reference numbers: models, training passes and generations computed by the published code.

The folder is `tests/reference`, or the one that NOVA_REFERENCE names, with other models of the same kinds. Nothing here
or in the tests beside it knows a size, a name of a model or a schedule: all are read from the files.
"""

import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from safetensors import safe_open

from nova_jax.checkpoints.components import Part, open_part
from nova_jax.checkpoints.published_configs import scheduler_config
from nova_jax.config import ModelConfig, SchedulerConfig
from nova_jax.models.nova import NOVA

ROOT = pathlib.Path(os.environ.get("NOVA_REFERENCE", pathlib.Path(__file__).parents[1] / "reference"))


class File(NamedTuple):
  """Arrays of a file, in PyTorch's layout, and its metadata decoded."""

  arrays: dict[str, np.ndarray]
  metadata: dict[str, Any]


def read(path: pathlib.Path) -> File:
  with safe_open(path, framework="numpy") as reader:
    arrays = {key: reader.get_tensor(key) for key in reader.keys()}
    return File(arrays, {key: json.loads(value) for key, value in (reader.metadata() or {}).items()})


def files(pattern: str) -> list[pathlib.Path]:
  """Return the files that match, relative to the folder."""
  return sorted(path.relative_to(ROOT) for path in ROOT.glob(pattern))


@functools.cache
def load_model(folder: pathlib.Path) -> NOVA:
  """Load the transformer of a model folder, in float32."""
  part = transformer_part(folder)
  return nnx.merge(part.graph, part.state("float32"))


def transformer_part(folder: pathlib.Path) -> Part:
  return open_part(ROOT / folder / "pipeline" / "transformer")


def scheduler_of(metadata: dict[str, Any]) -> SchedulerConfig:
  """Return the scheduler that a file's metadata describes."""
  fields = dict(metadata)
  return scheduler_config({"_class_name": fields.pop("class"), **fields}, fields.pop("library", "nova"))


def channels_last(latents: np.ndarray) -> np.ndarray:
  """[..., C, T, H, W] → [..., T, H, W, C], or [..., C, H, W] → [..., H, W, C]."""
  return np.moveaxis(latents, -4 if latents.ndim == 5 else -3, -1)


def close(actual, expected: np.ndarray, tolerance: float, what: str) -> None:
  """Fail if the largest difference exceeds `tolerance` of the largest value."""
  actual = np.asarray(actual)
  assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
  assert np.isfinite(actual).all(), f"{what}: not finite"
  error = np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12)
  assert error <= tolerance, f"{what}: relative error {error:.1e} > {tolerance:.0e}"


def condition_of(arrays: dict[str, np.ndarray], cfg: ModelConfig, prefix: str = "") -> dict[str, np.ndarray]:
  """Return the condition of a training pass or generation; published embeddings are padded already."""
  if cfg.num_classes:
    return {"labels": arrays["label"]}
  embeds = arrays[prefix + "text_embeds"]
  return {"text_embeds": embeds, "text_lengths": np.full(len(embeds), embeds.shape[1])}
