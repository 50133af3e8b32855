"""What can't be converted is refused in one line, and nothing is left half-written, whatever ends a conversion."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints.published import AUTOENCODERS, VIDEO, assert_same_weights
from parity.reference import ROOT
from pipeline.test_pipeline import CARD

from nova_jax import Pipeline
from nova_jax.checkpoints import convert as module
from nova_jax.checkpoints.components import PARTS, open_part
from nova_jax.checkpoints.convert import convert
from nova_jax.checkpoints.model_folder import load_text_encoder, open_folder
from nova_jax.checkpoints.store import LazyArray, open_arrays, save_arrays
from nova_jax.checkpoints.weight_files import open_weights, write_safetensors
from nova_jax.utils.files import read_json

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments, message", [
    ({"source": "none"}, "there is no folder"), ({"source": "."}, "no model folder"), ({"target": "there"}, "exists"),
    ({"parts": ["vea"]}, "did you mean 'vae'"), ({"dtype": "float8"}, "dtype: expected one of"),
    ({"source": "alone", "parts": ["vae"]}, "has no vae; it has transformer"), ({"step": 3}, "not a training run"),
    ({"weights": "params"}, "not a training run"), ({"target": "new/.."}, "name of a new folder"),
    ({"target": "link"}, "exists")])
def test_bad_arguments(tmp_path, arguments, message):
  (tmp_path / "there").mkdir()
  (tmp_path / "there/file").write_text("", encoding="utf-8")
  (tmp_path / "link").symlink_to("nowhere")
  shutil.copytree(VIDEO / "transformer", tmp_path / "alone")
  arguments = {"source": VIDEO, "target": "new"} | arguments
  arguments |= {name: tmp_path / arguments[name] for name in ("source", "target")}
  with pytest.raises(ValueError, match=message):
    convert(**arguments)
  assert not (tmp_path / "new").exists()


def test_weights_that_do_not_fit_are_all_named_and_nothing_is_written(tmp_path):
  source = tmp_path / "source"
  shutil.copytree(VIDEO, source)
  for part in PARTS:
    weights = open_weights(source / part)
    *_, first, second = sorted(weights)
    weights["renamed"] = weights.pop(first)
    weights[second] = dataclasses.replace(
        weights[second], shape=(*weights[second].shape, 1), read=lambda read=weights[second].read: read()[..., None])
    file = next((source / part).glob("*.safetensors"))
    write_safetensors(file.with_suffix(".new"), weights)
    file.with_suffix(".new").rename(file)
  with pytest.raises(ValueError, match="nothing was written") as error:
    convert(source, tmp_path / "target")
  text = str(error.value)
  assert text.count("renamed is not a weight") == text.count("instead of") == text.count("is missing") == 3
  assert "\n" not in text and all(f"{part}: 3 weights" in text for part in PARTS)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("dtype", [pytest.param(None, marks=pytest.mark.slow), "float32"])
def test_a_damaged_conversion_is_not_written_back(ours, tmp_path, dtype):
  source = tmp_path / "source"
  shutil.copytree(ours / VIDEO.relative_to(ROOT), source)
  card = json.loads((source / "nova.json").read_text(encoding="utf-8"))
  card["parts"][1]["sha256"] = "0" * 64
  (source / "nova.json").write_text(json.dumps(card), encoding="utf-8")
  with pytest.raises(ValueError, match="not the ones that were converted"):
    convert(source, tmp_path / "target", dtype=dtype)
  del card["parts"][1]
  (source / "nova.json").write_text(json.dumps(card), encoding="utf-8")
  with pytest.raises(ValueError, match="has no digest of the vae"):
    convert(source, tmp_path / "target", dtype=dtype)
  shutil.rmtree(source / "vae/state")
  with pytest.raises(ValueError, match="has no weights"):
    convert(source, tmp_path / "target")
  assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def rewrite(folder, change):
  """Write a part's weights anew, changed by a function of name and array."""
  weights = {}
  for name, weight in open_weights(folder).items():
    array = change(name, weight.read())
    weights[name] = LazyArray(array.shape, array.dtype, lambda array=array: array)
  write_safetensors(folder / "new", weights)
  (folder / "new").rename(next(folder.glob("*.safetensors")))


@pytest.mark.slow
def test_a_bit_that_flips_in_a_converted_folder_is_found_on_loading(ours, tmp_path):
  """By the digest that lies beside each array: neither Orbax nor the file system look."""
  shutil.copytree(ours / VIDEO.relative_to(ROOT), tmp_path / "source")
  file = max((tmp_path / "source/vae/state").rglob("*"), key=lambda path: path.stat().st_size)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  for use in (Pipeline.load, lambda source: convert(source, tmp_path / "target")):
    with pytest.raises(ValueError, match="vae is damaged: .*; convert the model anew"):
      use(tmp_path / "source")
  assert not (tmp_path / "target").exists()


def test_a_transposed_array_of_ours_is_not_taken_for_a_published_one(ours, tmp_path):
  shutil.copytree(ours / VIDEO.relative_to(ROOT), tmp_path / "source")
  folder = tmp_path / "source/transformer"
  arrays = open_arrays(folder)
  kernel = arrays["video_encoder/mixer/lora/kernel"].read()
  arrays["video_encoder/mixer/lora/kernel"] = LazyArray(kernel.T.shape, kernel.dtype, lambda: kernel.T)
  save_arrays(tmp_path / "new", arrays)
  for item in ("state", "digests"):
    shutil.rmtree(folder / item)
    (tmp_path / "new" / item).rename(folder / item)
  for use in (Pipeline.load, lambda source: convert(source, tmp_path / "target", dtype="float32")):
    with pytest.raises(ValueError, match="mixer/lora/kernel has shape"):
      use(tmp_path / "source")


def test_a_stack_of_several_dtypes_needs_one(tmp_path):
  source = tmp_path / "transformer"
  shutil.copytree(VIDEO / "transformer", source)
  rewrite(source, lambda name, array: array.astype(np.float32) + 1e-5 if "blocks.1.attn.proj.weight" in name else array)
  with pytest.raises(ValueError, match="attn/proj/kernel is float16 in some layers and float32 in others"):
    convert(source, tmp_path / "target")
  convert(source, tmp_path / "target", dtype="float32")
  convert(tmp_path / "target", tmp_path / "back")
  rewrite(source, lambda name, array: array.astype(np.float32))
  assert_same_weights(source, tmp_path / "back/transformer")


def test_values_too_large_for_a_dtype(tmp_path):
  convert(VIDEO, tmp_path / "ours", parts=["transformer"], dtype="float32")
  convert(tmp_path / "ours", tmp_path / "large")
  rewrite(tmp_path / "large/transformer", lambda name, array: array * 1e6)
  with pytest.raises(ValueError, match="too large for float16"):
    convert(tmp_path / "large", tmp_path / "target", dtype="float16")
  assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("part, change, message", [
    ("vae", {"latent_channels": 8}, "doesn't fit|does not fit"), ("vae", {"scaling_factor": 0.0}, "scaling_factor"),
    ("vae", {"scaling_factor": float("nan")}, "finite"), ("vae", {"layers_per_block": 10**9}, "layers_per_block"),
    ("vae", {"_class_name": "AutoencoderTiny"}, "not known"), ("vae", {"latent_channels": 10**25}, "latent_channels"),
    ("text_encoder", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ("text_encoder", {"layer_norm_eps": float("nan")}, "layer_norm_eps"),
    ("transformer", {"arch": ["vit_d1000000000w64", "vit_d4w64", "mlp_d2w96"]}, "arch"),
    ("transformer", {"video_base_size": [10**12, 2, 3]}, "base_frames"),
    ("transformer", {"text_token_len": 0}, "text_len"),
    ("transformer", {"text_token_dim": 64}, "does not fit its config"),
    ("scheduler", {"shift": float("nan")}, "finite"), ("scheduler", {"shift": 0.0}, "shift"),
    ("scheduler", {"num_train_timesteps": 10**15}, "num_train_timesteps"),
    ("scheduler", {"_class_name": "DDPMScheduler", "beta_schedule": "foo"}, "beta_schedule")])
def test_configs_that_cannot_be_honoured(tmp_path, part, change, message):
  source = tmp_path / "source"
  shutil.copytree(VIDEO, source)
  file = next((source / part).glob("*config.json"))
  file.write_text(json.dumps(read_json(file) | change), encoding="utf-8")
  with pytest.raises(ValueError, match=message) as error:
    convert(source, tmp_path / "target")
  assert "\n" not in str(error.value)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_parts_that_do_not_fit_each_other(trained, tmp_path):
  source = tmp_path / "source"
  shutil.copytree(VIDEO, source)
  shutil.rmtree(source / "vae")
  channels = lambda folder: read_json(ROOT / folder / "config.json")["latent_channels"]
  model = open_folder(VIDEO).card.model
  other = next(path for path in AUTOENCODERS if channels(path) != model.latent_dim)
  shutil.copytree(ROOT / other, source / "vae")
  for use in (Pipeline.load, lambda folder: convert(folder, tmp_path / "target")):
    with pytest.raises(ValueError, match=f"latents have {channels(other)} channels, the model's {model.latent_dim}"):
      use(source)
  shutil.copytree(VIDEO / "text_encoder", source / "vae", dirs_exist_ok=True)
  with pytest.raises(ValueError, match="holds a text_encoder; expected a vae"):
    convert(source, tmp_path / "target")
  with pytest.raises(ValueError, match=f"have {model.text_dim} values, the model takes {CARD.model.text_dim}"):
    load_text_encoder("text_encoder", CARD.model, VIDEO)
  # The run's own built-in parts are not replaced by a base's.
  notes = convert(trained, tmp_path / "published", base=VIDEO)
  assert len(notes) == 2 and sorted(path.name for path in (tmp_path / "published").iterdir()) == [
      "model_index.json", "nova_jax.json", "scheduler", "transformer"]


def test_a_card_of_another_model_is_refused(ours, tmp_path):
  shutil.copytree(ours / VIDEO.relative_to(ROOT), tmp_path / "source")
  card = json.loads((tmp_path / "source/nova.json").read_text(encoding="utf-8"))
  card["model"]["mixer_rank"] = 7
  (tmp_path / "source/nova.json").write_text(json.dumps(card), encoding="utf-8")
  with pytest.raises(ValueError, match="describes another model"):
    Pipeline.load(tmp_path / "source")


def test_tokenizers_are_looked_at(tmp_path):
  source = tmp_path / "source"
  shutil.copytree(VIDEO, source)
  (source / "tokenizer/tokenizer.json").write_text("{", encoding="utf-8")
  with pytest.raises(ValueError, match="tokenizer.json is not"):
    convert(source, tmp_path / "target")
  shutil.rmtree(source / "tokenizer")
  assert any("no tokenizer" in note for note in convert(source, tmp_path / "target", parts=["text_encoder"]))


def test_an_error_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
  def fail(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(module.model_card, "write_card", fail)
  with pytest.raises(KeyboardInterrupt):
    convert(VIDEO, tmp_path / "target")
  assert not list(tmp_path.iterdir())


def test_two_processes_do_not_write_one_target(tmp_path):
  def progress(part, done, total):
    if done == total:
      with pytest.raises(ValueError, match="another process"):
        convert(VIDEO, tmp_path / "target", parts=["vae"])

  convert(VIDEO, tmp_path / "target", parts=["vae"], progress=progress)
  assert open_part(tmp_path / "target/vae").misfits() == []


@pytest.mark.slow  # Two processes convert.
def test_kill_9_leaves_no_target_and_the_next_run_finishes(tmp_path):
  """Killed in the middle of its second part."""
  target, partial = tmp_path / "target", tmp_path / ".target.partial"
  program = f"""
import os
from nova_jax.checkpoints.convert import convert
convert({str(VIDEO)!r}, {str(target)!r}, progress=lambda part, *_: part == "vae" and os.kill(os.getpid(), 9))
"""
  done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True)
  assert done.returncode == -signal.SIGKILL and not target.exists() and (partial / "transformer/state").exists()
  convert(VIDEO, target)
  assert open_folder(target).card.parts and not partial.exists()
