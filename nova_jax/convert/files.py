"""Reading the files of a published (diffusers-style) model folder."""

import json
import pathlib

import numpy as np
from safetensors import SafetensorError, safe_open

WEIGHTS = "diffusion_pytorch_model.safetensors"


def read_json(path: pathlib.Path) -> dict:
  """Read a JSON object.

  Raises:
    ValueError: the file is missing or isn't one.
  """
  try:
    value = json.loads(path.read_text())
  except FileNotFoundError:
    raise ValueError(f"{path} does not exist") from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} is not JSON: {error}") from None
  if not isinstance(value, dict):
    raise ValueError(f"{path}: expected a JSON object, got a {type(value).__name__}")
  return value


def read_weights(folder: pathlib.Path, name: str = WEIGHTS) -> dict[str, np.ndarray]:
  """Read all weights of one part of a model, from one safetensors file or from shards with an index.

  Raises:
    ValueError: a file is missing or damaged.
  """
  index = folder / f"{name}.index.json"
  files = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else [name]
  weights = {}
  for file in files:
    try:
      with safe_open(folder / file, framework="numpy") as reader:
        weights |= {key: reader.get_tensor(key) for key in reader.keys()}
    except FileNotFoundError:
      raise ValueError(f"{folder / file} does not exist") from None
    except SafetensorError as error:
      raise ValueError(f"{folder / file} is not a readable safetensors file: {error}") from None
  return weights
