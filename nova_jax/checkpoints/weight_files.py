"""The files of published (diffusers-style) model folders: JSON, safetensors and PyTorch files.

Weights are read on demand and written one by one, so reading or writing a part needs the memory of one weight.
"""

import functools
import json
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from nova_jax.checkpoints.store import LazyArray
from nova_jax.storage import local_copy
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_fetched, check_regular, read_json, read_start

CONFIG = "config.json"
# Names of weight files in published folders. Each may be split into shards, which NAME.index.json lists.
SAFETENSORS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
PICKLES = ("diffusion_pytorch_model.bin", "pytorch_model.bin")
NAME_LENGTH = 80  # Longest name from an untrusted file that errors show.

DTYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16)}


def read_config(path: Path) -> dict[str, Any]:
  """Read a JSON file of a model folder; raises as `read_json` does."""
  return read_json(path, limits.CONFIG_BYTES)


def weight_files(folder: Path) -> list[Path]:
  """Return the files that hold the weights of one part: safetensors if there are any, otherwise PyTorch files.

  Raises:
    UserError: there are none, or an index names a file that is not in this folder.
  """
  for name in SAFETENSORS + PICKLES:
    index = folder / f"{name}.index.json"
    if index.is_symlink() or index.exists():
      shards = read_config(index).get("weight_map")
      if not isinstance(shards, dict) or not shards:
        raise UserError(f'{index}: expected a "weight_map" from weights to files')
      for shard in shards.values():
        # A name like ../../x would lead outside the folder.
        if not isinstance(shard, str) or Path(shard).name != shard:
          raise UserError(f"{index}: {shorten_name(repr(shard))} is not a file of {folder}")
      files = [folder / shard for shard in sorted(set(shards.values()))]
      missing = [file.name for file in files if not file.exists()]
      if missing:
        raise UserError(
            f"{index}: {shorten_name(missing[0])} is not a file of {folder}; {len(missing)} of {len(files)} shards are "
            f"missing{_link(folder / missing[0])}: download it again")
      return [check_regular(file) for file in files]
    if (folder / name).is_symlink() or (folder / name).exists():
      return [check_regular(folder / name)]
  raise UserError(f"{folder} has no weights; expected one of {', '.join(SAFETENSORS + PICKLES)}, or shards with an "
                   f"index{_other_name(folder)}")


def _link(path: Path) -> str:
  return f" ({shorten_name(path.name)} is a link to nothing)" if path.is_symlink() else ""


def _other_name(folder: Path) -> str:
  """Return advice for weights whose file has an unexpected name; empty if there are none."""
  names = sorted(path.name for path in folder.iterdir() if path.name.endswith((".safetensors", ".bin", ".json")))
  for name in names:
    # Includes the index of a variant: diffusion_pytorch_model.safetensors.index.fp16.json.
    for stem in SAFETENSORS + PICKLES:
      base, ending = stem.rsplit(".", 1)
      whole = re.fullmatch(rf"{base}\.(\w+)\.{ending}", name)
      if found := whole or re.fullmatch(rf"{re.escape(stem)}\.index\.(\w+)\.json", name):
        variant = found[1]
        new = stem if whole else f"{stem}.index.json"
        return f"; {shorten_name(name)} is the variant {shorten_name(variant)!r}: to use it, rename it to {new}"
  shards = [name for name in names if re.search(r"-\d+-of-\d+\.", name)]
  if shards:
    return f"; {shorten_name(shards[0])} is a shard, and the index that lists the shards is missing: download it too"
  weights = [name for name in names if not name.endswith(".json")]
  return f"; if {shorten_name(weights[0])} holds them, rename it to {SAFETENSORS[0]}" if len(weights) == 1 else ""


def shorten_name(text: str, length: int = NAME_LENGTH) -> str:
  """Return text from an untrusted file, shortened for an error."""
  return text if len(text) <= length else text[: length - 1] + "…"


def open_weights(folder: Path) -> dict[str, LazyArray]:
  """Return the weights of one part by name, without reading their values.

  Raises:
    UserError: files are missing or damaged, contain other objects than numbers, or contain a weight twice.
  """
  weights: dict[str, LazyArray] = {}
  for file in weight_files(folder):
    found = open_file(file)
    twice = weights.keys() & found.keys()
    if twice:
      raise UserError(f"{file}: {shorten_name(min(twice))} is in another shard too")
    weights |= found
  return weights


def open_file(file: Path, without: tuple[str, ...] = ()) -> dict[str, LazyArray]:
  """Return the weights of one file by name, without reading their values.

  Args:
    file: path of the file.
    without: suffixes of names to leave out.

  Raises:
    UserError: the file is damaged, or contains other objects than numbers.
  """
  check_fetched(file)
  return (_open_safetensors if file.suffix == ".safetensors" else _open_pickle)(file, without)


def _open_safetensors(file: Path, without: tuple[str, ...]) -> dict[str, LazyArray]:
  weights = {}
  # Checked before the library creates an object for each of a million entries.
  header = int.from_bytes(read_start(file, 8), "little")
  if limits.HEADER_BYTES < header <= file.stat().st_size:
    raise UserError(f"{file}: expected a header of at most {limits.HEADER_BYTES:,} bytes, got {header:,}")
  try:
    with safe_open(local_copy(file), framework="numpy") as reader:
      names = reader.keys()
      if len(names) > limits.WEIGHTS:
        raise UserError(f"{file}: expected at most {limits.WEIGHTS:,} weights, got {len(names):,}")
      for name in (name for name in names if not name.endswith(without)):
        piece = reader.get_slice(name)
        if piece.get_dtype() not in DTYPES:
          raise UserError(f"{file}: {shorten_name(name)} is {piece.get_dtype()}; expected one of {', '.join(DTYPES)}")
        weights[name] = LazyArray(
            tuple(piece.get_shape()), DTYPES[piece.get_dtype()], lambda name=name: _read_safetensors(file, name))
  except (SafetensorError, OSError) as error:
    raise UserError(
        f"{file} is not a readable safetensors file: {shorten_name(str(error), 200)}; if its download or copy was cut, "
        "fetch it again") from None
  return weights


def _read_safetensors(file: Path, name: str) -> np.ndarray:
  # The file is mapped again for each weight, since the pages of an open mapping would add up to the whole file.
  with safe_open(local_copy(file), framework="numpy") as reader:
    return reader.get_tensor(name)


def _open_pickle(file: Path, without: tuple[str, ...]) -> dict[str, LazyArray]:
  try:
    import torch
  except ImportError:
    raise UserError(
        f"{file} is a PyTorch file, which needs PyTorch to read: pip install torch, "
        "or save the weights as safetensors") from None

  content = local_copy(file)
  mapped = zipfile.is_zipfile(content)  # These files can be mapped instead of read.

  def load():
    return torch.load(content, map_location="cpu", weights_only=True, mmap=mapped)

  def read(name):
    tensor = (load() if mapped else tensors)[name].detach().contiguous()
    if tensor.dtype == torch.bfloat16:
      return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()

  try:
    tensors = load()
  except Exception as error:  # For invalid bytes the loader raises many types.
    reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
    raise UserError(f"{file} is not a PyTorch file of plain weights, and is refused: {reason}") from None
  known = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
  if not isinstance(tensors, dict) or not all(
      isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()):
    raise UserError(f"{file}: expected names and weights, got something else (a whole training state?)")
  tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(without)}
  for name, tensor in tensors.items():
    if tensor.dtype not in known or tensor.layout != torch.strided or tensor.device.type != "cpu":
      raise UserError(
          f"{file}: {shorten_name(name)} is {tensor.dtype}, {tensor.layout}, {tensor.device.type}; expected "
          "floating-point weights")
  return {
      name: LazyArray(tuple(tensor.shape), DTYPES[known[tensor.dtype]], functools.partial(read, name))
      for name, tensor in tensors.items()}


def write_safetensors(file: Path, weights: Mapping[str, LazyArray], metadata: Mapping[str, str] | None = None) -> None:
  """Write weights one by one, in the given order; the library's writer would need all of them in memory.

  The file has the length of the header in 8 bytes, the header as JSON (name → dtype, shape, offsets), and the values.
  The header also holds `metadata`, texts by name.
  """
  codes = {dtype: code for code, dtype in DTYPES.items()}
  # Wide dtypes come first, as in the library, so that all values are aligned.
  items = sorted(weights.items(), key=lambda item: -item[1].dtype.itemsize)
  header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
  end = 0
  for name, stored in items:
    start, end = end, end + stored.nbytes
    header[name] = {"dtype": codes[stored.dtype], "shape": list(stored.shape), "data_offsets": [start, end]}
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  with file.open("wb") as out:
    out.write(struct.pack("<Q", len(text)) + text)
    for name, stored in items:
      array = stored.read()
      assert array.shape == stored.shape and array.dtype == stored.dtype, name
      out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
