"""What people hand over as a model: the error says what to do, in a line that one can read."""

import json
import shutil
import struct

import numpy as np
import pytest
from checkpoints.published import assert_same_weights
from helpers import slow
from parity.reference import ROOT
from safetensors.numpy import load_file, save_file

from nova_jax.checkpoints.components import PARTS, open_part
from nova_jax.checkpoints.convert import convert
from nova_jax.checkpoints.load import check_complete
from nova_jax.checkpoints.model_folder import load_autoencoder, open_folder
from nova_jax.checkpoints.weight_files import open_weights
from nova_jax.utils import limits
from nova_jax.utils.files import read_json

MODEL = ROOT / "t2i/pipeline"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1290000000\n"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tmp_path):
  """A published folder that may be changed."""
  shutil.copytree(MODEL, tmp_path / "model")
  return tmp_path / "model"


def refusal(function, *arguments):
  with pytest.raises(ValueError) as error:
    function(*arguments)
  text = str(error.value)
  assert "\n" not in text and len(text) < 1000
  return text


@pytest.mark.parametrize("name", [
    "transformer/config.json", f"transformer/{WEIGHTS}", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"])
def test_pointers_of_git_lfs(model, name):
  (model / name).write_text(POINTER, encoding="utf-8")
  assert "git lfs pull" in refusal(convert, model, model.parent / "target")


def test_files_that_are_no_weights(model):
  file = model / "transformer" / WEIGHTS
  file.write_bytes(b"<!DOCTYPE html><html>log in</html>")
  assert "is a web page" in refusal(open_folder, model)
  file.write_bytes(b"")
  assert "is empty" in refusal(open_folder, model)
  file.unlink()
  (model / "transformer/pytorch_model.bin").write_text(POINTER, encoding="utf-8")
  assert "git lfs pull" in refusal(open_folder, model)


@pytest.mark.parametrize("name", [
    "transformer/config.json", f"transformer/{WEIGHTS}", "vae/config.json", "vae", "scheduler/scheduler_config.json",
    "model_index.json", "tokenizer/tokenizer.json"])
def test_links_to_nothing(model, name):
  shutil.rmtree(model / name) if (model / name).is_dir() else (model / name).unlink()
  (model / name).symlink_to("../blobs/gone")
  assert "it is a link to ../blobs/gone" in refusal(convert, model, model.parent / "target")


def test_variants_and_shards(model):
  folder = model / "transformer"
  (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
  assert f"is the variant 'fp16': to use it, rename it to {WEIGHTS}" in refusal(open_part, folder)
  weights = load_file(folder / "diffusion_pytorch_model.fp16.safetensors")
  (folder / "diffusion_pytorch_model.fp16.safetensors").rename(folder / "nova.safetensors")
  assert f"if nova.safetensors holds them, rename it to {WEIGHTS}" in refusal(open_part, folder)
  shard = "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"
  (folder / "nova.safetensors").rename(folder / shard)
  assert "the index that lists the shards is missing" in refusal(open_part, folder)
  index = {"weight_map": dict.fromkeys(weights, shard) | {"last": shard.replace("00001-of", "00002-of")}}
  (folder / f"{WEIGHTS}.index.fp16.json").write_text(json.dumps(index), encoding="utf-8")
  assert f"rename it to {WEIGHTS}.index.json" in refusal(open_part, folder)
  (folder / f"{WEIGHTS}.index.fp16.json").rename(folder / f"{WEIGHTS}.index.json")
  assert "1 of 2 shards are missing" in refusal(open_part, folder)


@pytest.mark.parametrize("wrap, wrappers", [
    ("_orig_mod.{}".format, "_orig_mod."), slow("module.{}".format, "module."),
    slow("module._orig_mod.{}".format, "_orig_mod. and module."),
    slow("_orig_mod.module.{}".format, "_orig_mod. and module."),
    (lambda name: name.replace("blocks.1.", "blocks.1._orig_mod."), "_orig_mod.")])
def test_names_behind_a_wrapper(tmp_path, wrap, wrappers):
  source = tmp_path / "transformer"
  shutil.copytree(MODEL / "transformer", source)
  save_file({wrap(name): array for name, array in load_file(source / WEIGHTS).items()}, source / WEIGHTS)
  text = refusal(open_part(source).state)
  assert f"have {wrappers} before them" in text and f"launch.convert --source {tmp_path} --target" in text
  notes = convert(tmp_path, tmp_path / "ours", parts=["transformer"])
  assert any(f"{wrappers} before names of weights was taken off" in note for note in notes)
  convert(tmp_path / "ours", tmp_path / "back")
  assert_same_weights(tmp_path / "back/transformer", MODEL / "transformer")


def test_a_name_that_is_there_with_and_without_a_wrapper(model):
  file = model / "transformer" / WEIGHTS
  weights = load_file(file)
  save_file(weights | {"_orig_mod." + name: array for name, array in list(weights.items())[:1]}, file)
  assert "is there twice, also behind _orig_mod." in refusal(open_part, model / "transformer")


def test_many_names_that_do_not_fit_are_counted(model):
  for part in PARTS:
    file = next((model / part).glob("*.safetensors"))
    save_file({f"net.{'x' * 500}.{name}": array for name, array in load_file(file).items()}, file)
  text = refusal(open_part(model / "transformer").state)
  assert "more" in text and str(2 * len(open_weights(MODEL / "transformer"))) in text
  refusal(convert, model, model.parent / "target")


def test_a_folder_too_high_or_too_low(model):
  assert f"give {model}" in refusal(open_folder, model.parent)
  shutil.copytree(MODEL / "vae", model.parent / "other/vae")
  assert f"give {model} or {model.parent / 'other'}" in refusal(open_folder, model.parent)
  assert f"is the transformer alone; it is a part of the model {model}" in refusal(
      check_complete, open_folder(model / "transformer"), PARTS)
  check_complete(open_folder(model / "transformer"), [])
  assert f"a part of the model {model}" in refusal(check_complete, open_folder(model / "vae"), PARTS)
  assert f"a part of the model {model}" in refusal(open_folder, model / "tokenizer")
  assert f"give {model}" in refusal(open_folder, model / "transformer" / WEIGHTS)


def test_a_part_too_high_or_far_away(model):
  assert refusal(load_autoencoder, str(model)).endswith(f"its vae alone: give {model / 'vae'}")


def test_folders_within_a_training_run(trained):
  step = next((trained / "checkpoints").iterdir())
  assert f"give that folder (and --step={step.name})" in refusal(open_folder, step)
  for folder in (trained / "checkpoints", step / "state", trained / "nova.json"):
    assert str(trained) in refusal(open_folder, folder).replace(str(folder), "")


def test_other_paths(model, trained, tmp_path):
  assert "~/model" in refusal(open_folder, type(model)("~/model")).replace("--flag ", "")
  (tmp_path / "model.zip").touch()
  assert refusal(open_folder, tmp_path / "model.zip").endswith("unpack it and give the folder")
  shutil.copytree(trained, tmp_path / "run")
  card = json.loads((tmp_path / "run/nova.json").read_text(encoding="utf-8"))
  (tmp_path / "run/nova.json").write_text(json.dumps(card | {"version": 2}), encoding="utf-8")
  assert refusal(open_folder, tmp_path / "run").endswith("a newer version of nova_jax")
  (tmp_path / "run/nova.json").unlink()
  (tmp_path / "run/config.json").write_text("{}", encoding="utf-8")
  assert "has checkpoints/ but no nova.json" in refusal(open_folder, tmp_path / "run")


def test_a_folder_of_the_hub_s_cache(tmp_path, monkeypatch):
  cache = tmp_path / "models--ORG--nova"
  for name in ("abc", "def"):
    shutil.copytree(MODEL / "transformer", cache / "snapshots" / name / "transformer")
  assert "snapshots/abc or" in refusal(open_folder, cache)
  (cache / "refs").mkdir()
  (cache / "refs/main").write_text("def", encoding="utf-8")
  assert refusal(open_folder, cache).endswith("snapshots/def")
  shutil.rmtree(cache / "snapshots")
  (cache / "snapshots/abc").mkdir(parents=True)
  assert "download it again" in refusal(open_folder, cache)
  monkeypatch.chdir(tmp_path)
  assert "since models--ORG--nova is a folder here" in refusal(open_folder, type(cache)("models--ORG--nova/nova"))


def test_a_part_that_was_lost(model):
  shutil.rmtree(model / "vae")
  assert "names a vae, but there is no vae/config.json" in refusal(check_complete, open_folder(model), PARTS)
  shutil.rmtree(model / "scheduler")  # What would be taken in its place is another one.
  assert "names a scheduler, but there is no scheduler/scheduler_config.json" in refusal(open_folder, model)


def test_files_of_strangers_are_bounded(tmp_path, model, monkeypatch):
  header = json.dumps({f"w{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(60_000)}).encode()
  file = model / "transformer" / WEIGHTS
  file.write_bytes(struct.pack("<Q", len(header)) + header)
  assert "at most 50,000 weights" in refusal(open_part, model / "transformer")
  monkeypatch.setattr(limits, "HEADER_BYTES", 1 << 20)
  assert "a header of at most" in refusal(open_part, model / "transformer")
  monkeypatch.setattr(limits, "CONFIG_BYTES", 1000)
  config = model / "transformer/config.json"
  config.write_text(json.dumps(read_json(config) | {"more": "x" * 1000}), encoding="utf-8")
  assert "at most 1,000 bytes" in refusal(open_part, model / "transformer")
  (tmp_path / "deep.json").write_text('{"a": ' + "[" * 500 + "]" * 500 + "}", encoding="utf-8")
  assert "within each other" in refusal(read_json, tmp_path / "deep.json")


@pytest.mark.parametrize("name", ["../../../../etc", "/etc", "vae/../../other"])
def test_a_card_names_no_part_outside_its_folder(ours, tmp_path, name):
  shutil.copytree(ours / MODEL.relative_to(ROOT), tmp_path / "ours")
  card = json.loads((tmp_path / "ours/nova.json").read_text(encoding="utf-8"))
  (tmp_path / "ours/nova.json").write_text(json.dumps(card | {"autoencoder": name}), encoding="utf-8")
  assert "expected 'vae'" in refusal(open_folder, tmp_path / "ours")
  (tmp_path / "ours/nova.json").write_text(json.dumps(card), encoding="utf-8")
  shutil.rmtree(tmp_path / "ours/vae")
  assert "names a vae, but there is no vae" in refusal(open_folder, tmp_path / "ours")


def test_numbers_that_are_no_weights(model):
  file = model / "transformer" / WEIGHTS
  save_file({name: array.astype(np.int8) for name, array in load_file(file).items()}, file)
  assert "is I8; expected one of" in refusal(open_part, model / "transformer")
  (model / "vae/config.json").write_text('{"_class_name": "FluxTransformer2DModel"}', encoding="utf-8")
  assert "class 'FluxTransformer2DModel' is not known" in refusal(open_part, model / "vae")
  (model / "vae/config.json").write_text("{}", encoding="utf-8")
  assert "config.json: it names no class; expected" in refusal(open_part, model / "vae")
