"""Writes a LoRA into a folder that peft, diffusers and nova_jax load; see `lora.py` for the files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nova_jax.checkpoints.lora import CONFIG, FORMAT, OURS, PREFIX, WEIGHTS, Lora
from nova_jax.checkpoints.new_folder import new_folder
from nova_jax.checkpoints.weight_files import write_safetensors
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import to_dict

_DIFFUSERS = "lora_adapter_metadata"  # Where diffusers finds rank and alpha in the file of the weights.


def write_lora(lora: Lora, target: str | Path) -> None:
  """Write a LoRA into a new folder, in float32.

  Raises:
    UserError: the folder exists.
  """
  target = as_path(target)
  if target.exists():
    raise UserError(f"target: {target} exists; give a new name, or remove it")
  weights = {}
  for name, (a, b) in sorted(lora.updates.items()):
    module = PREFIX + name.removesuffix(".weight")
    weights |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
  weights |= {PREFIX + name: stored for name, stored in sorted(lora.full.items())}
  config = {
      "peft_type": "LORA", "task_type": None, "base_model_name_or_path": lora.card.base if lora.card else None,
      "r": lora.rank, "lora_alpha": lora.scale * lora.rank, "lora_dropout": 0.0, "bias": "none",
      "fan_in_fan_out": False, "inference_mode": True,
      "target_modules": [name.removesuffix(".weight") for name in sorted(lora.updates)],
      "modules_to_save": sorted({name.rpartition(".")[0] for name in lora.full}) or None}
  told = ("r", "lora_alpha", "lora_dropout", "bias", "target_modules")  # diffusers reads no config file.
  metadata = {_DIFFUSERS: json.dumps({PREFIX + name: config[name] for name in told})}
  with new_folder(target, sum(stored.nbytes for stored in weights.values())) as folder:
    write_safetensors(folder / WEIGHTS, weights, metadata)
    if lora.card is not None:
      _write_json(folder / OURS, FORMAT | to_dict(lora.card))
    _write_json(folder / CONFIG, config)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
