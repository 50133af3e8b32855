"""Write the tables of this folder with the published code: `python tests/tables/make.py --peer PATH_TO_CHECKOUT`.

Needs a checkout of github.com/baaivision/NOVA and torch, diffusers, transformers, scipy, einops and yaml. Every part is
built by the published constructor on the "meta" device, which holds shapes but no values; `read.py` has the format. The
tables here were written from the checkout's commit 2cd254a with torch 2.13.0, diffusers 0.42.1, transformers 5.23.0.

Where the settings come from. Transformers: `configs/*.yaml` of the checkout, with two additions. The one for video
lacks the low-rank layer, `video_mixer_rank` 24 in the paper. The one for 512 x 512 images does not exist; it is that
for 1024 x 1024 at half the size. CogVideoX and LTX: the constructors' defaults. The KL autoencoders: what Stable
Diffusion and SDXL publish. OpenSora-Plan 1.2: not in the checkout; two 2-D blocks, then two 3-D ones, 3-D blocks all
the way up, the constructor's default widths and scale, convolutions around the latents. Phi-2: what microsoft/phi-2
publishes. Everything else in a "config" is a default of the class that wrote it.
"""

import argparse
import importlib
import itertools
import json
import pathlib
import re
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
import yaml

Table = dict[str, list[int]]

AUTOENCODERS = {
    "sd": ("autoencoder_kl.AutoencoderKL", {"latent_channels": 4, "sample_size": 512, "scaling_factor": 0.18215}),
    "sdxl": ("autoencoder_kl.AutoencoderKL", {"latent_channels": 4, "sample_size": 1024, "scaling_factor": 0.13025}),
    "opensora-plan": ("autoencoder_kl_opensora.AutoencoderKLOpenSora", {
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 2 + ["DownEncoderBlock3D"] * 2,
        "up_block_types": ["UpDecoderBlock3D"] * 4}),
    "cogvideox": ("autoencoder_kl_cogvideox.AutoencoderKLCogVideoX", {}),
    "ltx": ("autoencoder_kl_ltx.AutoencoderKLLTXVideo", {}),
}

PHI_2 = {
    "vocab_size": 51200, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5,
    "max_position_embeddings": 2048, "partial_rotary_factor": 0.4, "rope_theta": 10000.0, "qk_layernorm": False,
    "embd_pdrop": 0.0, "resid_pdrop": 0.1, "bos_token_id": 50256, "eos_token_id": 50256, "tie_word_embeddings": False,
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--peer", type=pathlib.Path, required=True, help="checkout of the published code")
  peer = parser.parse_args().peer
  sys.path.insert(0, str(peer))
  transformer = published("transformers.transformer_nova.NOVATransformer3DModel")
  for name, config in transformer_configs(peer).items():
    write(name, transformer, config)
  for name, (path, config) in AUTOENCODERS.items():
    write(name, published(f"autoencoders.{path}"), config)
  write_phi("phi-2", published("text_encoders.phi.PhiEncoderModel"))


def published(path: str) -> type:
  """Import a class of the published code, given as module.Class."""
  module, name = path.rsplit(".", 1)
  return getattr(importlib.import_module(f"diffnext.models.{module}"), name)


def transformer_configs(peer: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Return the config of every released transformer."""
  configs = {}
  for path in sorted(peer.glob("configs/nova_*.yaml")):
    pipeline = yaml.safe_load(path.read_text(encoding="utf-8"))["pipeline"]
    configs[path.stem.replace("_", "-")] = pipeline["paths"]["module_config"]["transformer"]
  configs["nova-d48w1024-osp480"]["video_mixer_rank"] = 24
  configs["nova-d48w1024-sd512"] = configs["nova-d48w1024-sdxl1024"] | {
      "image_size": [512, 512], "video_base_size": [1, 16, 16], "image_base_size": [32, 32]}
  return configs


def write(name: str, cls: type, config: Mapping[str, Any]) -> None:
  """Write the table of a class that keeps its config as diffusers does."""
  with torch.device("meta"):
    model = cls(**config)
  write_table(name, json.loads(model.to_json_string()), model.state_dict())


def write_phi(name: str, cls: type) -> None:
  """Write the table of the text encoder, whose config is one of transformers."""
  config = cls.config_class(**PHI_2, architectures=[cls.__name__], dtype="float16")
  # transformers 5 moves these into `rope_parameters`; released configs have them here, where published code reads them.
  config.update({name: PHI_2[name] for name in ("partial_rotary_factor", "rope_theta")})
  with torch.device("meta"):
    model = cls(config)
  with tempfile.TemporaryDirectory() as folder:
    config.save_pretrained(folder)
    values = json.loads((pathlib.Path(folder) / "config.json").read_text(encoding="utf-8"))
  write_table(name, values, model.state_dict())


def write_table(name: str, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
  rows = collapse({weight: list(value.shape) for weight, value in weights.items()})
  lines = ",\n".join(f'  "{weight}": {rows[weight]}' for weight in sorted(rows))
  text = f'{{\n"config": {json.dumps(config, indent=1)},\n"weights": {{\n{lines}\n}}\n}}\n'
  pathlib.Path(__file__).with_name(f"{name}.json").write_text(text, encoding="utf-8")


def collapse(shapes: Table) -> Table:
  """Join names that differ by consecutive numbers and agree in shape, one place of a number after the other."""
  deepest = max(name.count(".") for name in shapes)
  for place in range(deepest + 1):
    groups: dict[tuple, list[int]] = {}
    joined: Table = {}
    for name, shape in shapes.items():
      keys = name.split(".")
      if place < len(keys) and re.fullmatch(r"\d+", keys[place]):
        group = ".".join(keys[:place]), ".".join(keys[place + 1:]), tuple(shape)
        groups.setdefault(group, []).append(int(keys[place]))
      else:
        joined[name] = shape
    for (before, after, shape), numbers in groups.items():
      for run in runs(numbers):
        number = f"{{{run[0]}-{run[-1]}}}" if len(run) > 1 else str(run[0])
        joined[".".join(filter(None, (before, number, after)))] = list(shape)
    shapes = joined
  return shapes


def runs(numbers: list[int]) -> list[list[int]]:
  """Split numbers into runs of consecutive ones."""
  pairs = enumerate(sorted(numbers))
  return [[number for _, number in run] for _, run in itertools.groupby(pairs, lambda pair: pair[1] - pair[0])]


if __name__ == "__main__":
  main()
