"""Weights on disk: what can be read, and that whatever else lies there gives one clear error."""

import json
import random
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from nova_jax.checkpoints.store import LazyArray
from nova_jax.checkpoints.weight_files import SAFETENSORS, open_weights, write_safetensors
from nova_jax.utils.files import read_json

NAME = SAFETENSORS[0]
ARRAYS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.half": np.linspace(0, 1, 5).astype(np.float16),
    "c.brain": np.linspace(-1, 1, 4).astype(ml_dtypes.bfloat16), "scalar": np.array(1000, np.float32)}


def stored(array):
  return LazyArray(array.shape, array.dtype, lambda: array)


def same(weights, arrays):
  assert weights.keys() == arrays.keys()
  for name, array in arrays.items():
    read = weights[name].read()
    assert (weights[name].shape, weights[name].dtype) == (array.shape, array.dtype) == (read.shape, read.dtype), name
    assert read.tobytes() == array.tobytes(), name


def test_weights_come_back(tmp_path):
  write_safetensors(tmp_path / NAME, {name: stored(array) for name, array in ARRAYS.items()})
  same(open_weights(tmp_path), ARRAYS)
  with safe_open(tmp_path / NAME, "numpy") as reader:  # The library's own view of our file.
    assert reader.metadata() == {"format": "pt"} and set(reader.keys()) == ARRAYS.keys()


def test_shards_are_read_as_one(tmp_path):
  names = sorted(ARRAYS)
  shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
  for file, part in shards.items():
    save_file({name: ARRAYS[name] for name in part}, tmp_path / file)
  index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
  (tmp_path / f"{NAME}.index.json").write_text(json.dumps(index), encoding="utf-8")
  same(open_weights(tmp_path), ARRAYS)
  save_file({"b.weight": ARRAYS["b.weight"]}, tmp_path / "one.safetensors")
  save_file({"b.weight": ARRAYS["b.weight"]}, tmp_path / "two.safetensors")
  with pytest.raises(ValueError, match="b.weight is in another shard too"):
    open_weights(tmp_path)


@pytest.mark.parametrize("index, message", [
    ("{", "not JSON"), ("[]", "JSON object"), ("{}", "weight_map"), ('{"weight_map": []}', "weight_map"),
    ('{"weight_map": {"a": 1}}', "not a file"), ('{"weight_map": {"a": "gone.safetensors"}}', "not a file"),
    ('{"weight_map": {"a": "../x.safetensors"}}', "not a file"), ('{"weight_map": {"a": "/etc/passwd"}}', "not a file"),
    ("[" * 100_000, "not JSON")])
def test_damaged_indices(tmp_path, index, message):
  save_file(ARRAYS, tmp_path / "x.safetensors")
  folder = tmp_path / "part"
  folder.mkdir()
  (folder / f"{NAME}.index.json").write_text(index, encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    open_weights(folder)


def test_what_is_no_weight_file(tmp_path):
  with pytest.raises(ValueError, match="has no weights; expected one of"):
    open_weights(tmp_path)
  (tmp_path / "config.json").write_bytes(b"{")
  with pytest.raises(ValueError, match="is not JSON"):
    read_json(tmp_path / "config.json")
  with pytest.raises(ValueError, match="does not exist"):
    read_json(tmp_path / "gone.json")
  (tmp_path / "folder.json").mkdir()
  with pytest.raises(ValueError, match="folder.json"):
    read_json(tmp_path / "folder.json")
  save_file({"ids": np.arange(3)}, tmp_path / NAME)
  with pytest.raises(ValueError, match="ids is I64; expected one of"):
    open_weights(tmp_path)


def header(fields, tail=b""):
  text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
  return struct.pack("<Q", len(text)) + text + tail


@pytest.mark.parametrize("content", [
    b"", b"\x10" * 100, struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 10) + b"{}", header(b"[]"),
    header(b"\xff" * 8),
    header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)),
    header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
    header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, bytes(4)),
    header({"a": {"dtype": "F999", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    header({"a": {"shape": [1]}}, bytes(4)), header(b'{"a":' * 1000)])
def test_hostile_headers(tmp_path, content):
  (tmp_path / NAME).write_bytes(content)
  with pytest.raises(ValueError, match="is not a readable safetensors file|is empty"):
    open_weights(tmp_path)


def test_fuzzed_files_end_in_a_value_error_or_in_weights(tmp_path):
  """Bytes are changed, removed and doubled at random, most of them in the header; all weights are read."""
  save_file(ARRAYS, tmp_path / NAME)
  content, rng, damaged = (tmp_path / NAME).read_bytes(), random.Random(0), 0
  for _ in range(2000):
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
      place = rng.randrange(min(len(data), 400))
      change = rng.randrange(4)
      if change == 0:
        data[place] = rng.randrange(256)
      elif change == 1:
        data[place] = ord(rng.choice('0123456789{}[],:"-eF'))
      elif change == 2:
        del data[place:place + rng.randrange(1, 20)]
      else:
        data[place:place] = data[place:place + rng.randrange(1, 20)]
    (tmp_path / NAME).write_bytes(data)
    try:
      for weight in open_weights(tmp_path).values():
        assert weight.read().shape == weight.shape
    except ValueError as error:
      assert str(error).count("\n") == 0
      damaged += 1
  assert 1000 < damaged < 2000, "some damage is seen, and not all of it is fatal"


def test_a_file_that_is_cut_is_named(tmp_path):
  save_file(ARRAYS, tmp_path / NAME)
  content = (tmp_path / NAME).read_bytes()
  for size in (len(content) - 1, len(content) // 2, 4):
    (tmp_path / NAME).write_bytes(content[:size])
    with pytest.raises(ValueError, match=NAME):
      open_weights(tmp_path)


def test_pytorch_files_need_pytorch(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "torch", None)  # As if it were not installed.
  (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
  with pytest.raises(ValueError, match="needs PyTorch to read: pip install torch"):
    open_weights(tmp_path)


class Code:
  """What a hostile pickle holds: it runs a command when it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (open, (str(self.path), "w"))


def test_pytorch_files(tmp_path):
  torch = pytest.importorskip("torch", reason="needs the extra torch, of several GB, which no other test needs")
  file = tmp_path / "diffusion_pytorch_model.bin"
  tensors = {
      name: torch.tensor(array.astype(np.float32)).to(getattr(torch, str(array.dtype)))
      for name, array in ARRAYS.items()}
  for zipped in (True, False):
    torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
    same(open_weights(tmp_path), ARRAYS)
  for content, message in (
      ({"state_dict": tensors}, "expected names and weights"), ({"a": torch.arange(3)}, "a is torch.int64"),
      ({"a": Code(tmp_path / "ran")}, "is refused")):
    torch.save(content, file)
    with pytest.raises(ValueError, match=message):
      open_weights(tmp_path)
  file.write_bytes(b"\x80\x04garbage")
  with pytest.raises(ValueError, match="is refused") as error:
    open_weights(tmp_path)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "ran").exists()
