"""Whole folders: there and back without a changed bit, in all forms."""

import dataclasses
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from checkpoints.published import AUTOENCODERS, PIPELINES, VIDEO, assert_same_weights
from flax import nnx
from helpers import quick_if, slow
from parity.reference import ROOT
from pipeline.test_pipeline import CARD, TINY, save

from nova_jax import Pipeline
from nova_jax.checkpoints.components import PARTS, open_part
from nova_jax.checkpoints.convert import convert
from nova_jax.checkpoints.load import load_transformer
from nova_jax.checkpoints.model_card import read_card
from nova_jax.checkpoints.model_folder import load_autoencoder, load_text_encoder, open_folder
from nova_jax.checkpoints.weight_files import open_weights
from nova_jax.config import SampleConfig
from nova_jax.utils.files import read_json


def parts_of(folder):
  return {name: folder / name for name in PARTS if (folder / name).is_dir()} or {"": folder}


@pytest.mark.parametrize("path", quick_if(("t2v/", "ltx"), PIPELINES + AUTOENCODERS), ids=str)
def test_there_and_back(ours, tmp_path, path):
  """PyTorch → Orbax → PyTorch: the same weights to the bit, the same settings, the same other files."""
  convert(ours / path, tmp_path / "back")
  source = {file.relative_to(ROOT / path) for file in (ROOT / path).rglob("*") if file.is_file()}
  if (ROOT / path / "config.json").is_file():  # An autoencoder alone lies in a folder of its kind then.
    source = {Path("vae") / file for file in source}
    assert_same_weights(ROOT / path, tmp_path / "back" / "vae")
    assert read_json(tmp_path / "back/vae/config.json") == read_json(ROOT / path / "config.json")
    assert source < {file.relative_to(tmp_path / "back") for file in (tmp_path / "back").rglob("*") if file.is_file()}
    return
  assert source == {file.relative_to(tmp_path / "back") for file in (tmp_path / "back").rglob("*") if file.is_file()}
  for file in source:
    if file.suffix == ".json":
      assert read_json(tmp_path / "back" / file) == read_json(ROOT / path / file), file
  for name, folder in parts_of(ROOT / path).items():
    assert_same_weights(folder, tmp_path / "back" / name)


@pytest.mark.parametrize("path", quick_if(("t2v/",), PIPELINES), ids=str)
def test_both_forms_load_alike(ours, path):
  published, converted = open_folder(ROOT / path), open_folder(ours / path)
  assert dataclasses.replace(converted.card, parts=(), source="", versions="") == published.card
  assert converted.parts.keys() == published.parts.keys()
  for name in published.parts:
    a, b = (nnx.to_flat_state(folder.parts[name]().state()) for folder in (published, converted))
    for (path_a, x), (path_b, y) in zip(a, b, strict=True):
      assert path_a == path_b and x[...].dtype == y[...].dtype and np.array_equal(x[...], y[...]), path_a


def test_the_card_says_what_was_converted(ours):
  folder = ours / VIDEO.relative_to(ROOT)
  card = read_card(folder)
  assert card.source == str(VIDEO) and "orbax" in card.versions
  assert [part.name for part in card.parts] == list(PARTS)
  for part in card.parts:
    weights = open_weights(VIDEO / part.name)
    assert part.weights == len(weights) and part.dtype == "float16" and len(part.sha256) == 64
    assert part.class_name in (VIDEO / part.name / "config.json").read_text(encoding="utf-8")
  assert len({part.sha256 for part in card.parts}) == 3


def test_a_pipeline_loads_what_it_is_asked_for(ours):
  folder = ours / VIDEO.relative_to(ROOT)
  pipe = Pipeline.load(folder, parts=(), dtype="bfloat16")
  assert pipe.text_encoder is None and pipe.autoencoder is None and pipe.cfg.dtype == "bfloat16"
  with pytest.raises(ValueError, match="give text_embeds"):
    pipe("a", output="latent")
  with pytest.raises(ValueError, match="ask for latents"):
    pipe("a")
  with pytest.raises(ValueError, match="no transformer"):
    Pipeline.load(ours / AUTOENCODERS[0])


@pytest.mark.parametrize("dtype", [slow("float32"), "bfloat16"])
def test_another_dtype(tmp_path, dtype):
  convert(VIDEO, tmp_path / "ours", parts=["transformer"], dtype=dtype)
  convert(tmp_path / "ours", tmp_path / "back")
  before, after = open_weights(VIDEO / "transformer"), open_weights(tmp_path / "back/transformer")
  for name in before:
    expected = before[name].read().astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    assert after[name].dtype == expected.dtype and np.array_equal(after[name].read(), expected), name
  assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["model_index.json", "scheduler", "transformer"]
  assert "vae" not in read_json(tmp_path / "back/model_index.json")


@pytest.mark.slow
def test_a_folder_with_the_transformer_alone(tmp_path):
  """What a published training run leaves, with the rest from its base model, and without."""
  run = tmp_path / "checkpoint-1"
  shutil.copytree(VIDEO / "transformer", run / "transformer")
  for source in (run, run / "transformer"):
    target = tmp_path / f"{source.name}-ours"
    notes = convert(source, target)
    assert any("no scheduler" in note for note in notes)
    assert open_folder(target).parts.keys() == {"transformer"}
  convert(run, tmp_path / "whole", base=VIDEO)
  whole, expected = read_card(tmp_path / "whole"), open_folder(VIDEO).card
  assert (whole.scheduler, whole.autoencoder, whole.text_encoder) == (expected.scheduler, "vae", "text_encoder")
  assert {path.name for path in (tmp_path / "whole").iterdir()} == {
      "nova.json", "model_index.json", "scheduler", "tokenizer", *PARTS}


def test_a_config_that_omits_the_mixer(tmp_path):
  source = tmp_path / "source"
  shutil.copytree(VIDEO / "transformer", source / "transformer")
  config = read_json(source / "transformer/config.json")
  rank = config.pop("video_mixer_rank")
  (source / "transformer/config.json").write_text(json.dumps(config), encoding="utf-8")
  notes = convert(source, tmp_path / "ours")
  assert rank and any(f"taken as {rank}" in note for note in notes)
  assert read_card(tmp_path / "ours").model.mixer_rank == rank
  assert read_json(tmp_path / "ours/transformer/config.json")["video_mixer_rank"] == rank


@pytest.mark.parametrize("weights", ["ema", slow("params")])
def test_a_training_run_becomes_a_published_folder(trained, tmp_path, weights):
  notes = convert(trained, tmp_path / "published", weights=weights, dtype="float16")
  assert [note.split()[1] for note in notes] == ["vae", "text_encoder"], "built-in parts have no folder, and it is said"
  published = open_part(tmp_path / "published/transformer")
  assert set(stored.dtype for stored in published.weights.values()) == {np.dtype(np.float16)}
  ours = open_folder(trained, weights).parts["transformer"]()
  for name, array in ours.arrays().items():
    assert np.array_equal(published.arrays()[name].read(), array.read().astype(np.float16)), name
  card = open_folder(tmp_path / "published").card
  assert (card.model, card.scheduler) == (read_card(trained).model, CARD.scheduler)
  assert read_json(tmp_path / "published/model_index.json")["_class_name"] == "NOVAPipeline"


@pytest.mark.parametrize("fields", [
    {"canvas": True}, slow({"norm": "pre"}), slow({"history": False}), slow({"told_noise": True}),
    slow({"width": 80, "num_heads": 5})], ids=lambda fields: next(iter(fields)))
def test_a_model_that_the_published_code_has_not_keeps_all_it_is(tmp_path, fields):
  cfg = dataclasses.replace(TINY, **({"width": 64, "latent_size": (16, 16)} | fields))
  save(tmp_path / "run", dataclasses.replace(CARD, model=cfg), cfg)
  for source, target in (("run", "written"), ("written", "converted"), ("converted", "again")):
    (note, *_) = convert(tmp_path / source, tmp_path / target)
    assert f"model.{next(iter(fields))}" in note.replace("arch", "model.width") and "for nova_jax alone" in note
    opened = open_folder(tmp_path / target)
    assert dataclasses.replace(opened.card.model, dtype=cfg.dtype, remat=cfg.remat) == cfg
    states = [nnx.to_flat_state(open_folder(tmp_path / name).transformer().state()) for name in ("run", target)]
    for (path, a), (_, b) in zip(*states, strict=True):
      np.testing.assert_array_equal(a[...], b[...], err_msg=str(path))
  assert_same_weights(tmp_path / "written/transformer", tmp_path / "again/transformer")
  (tmp_path / "written/transformer/config.json").write_text('{"_class_name": "NOVA"}', encoding="utf-8")
  with pytest.raises(ValueError, match="model: expected the fields of a model, got None"):
    open_folder(tmp_path / "written")


def test_a_training_run_exports_the_parts_that_it_used(ours, tmp_path):
  """A run may name folders for its autoencoder and text encoder, of either form."""
  model = open_folder(VIDEO).card.model
  save(tmp_path / "run", dataclasses.replace(
      CARD, model=model, autoencoder=str(ours / VIDEO.relative_to(ROOT) / "vae"),
      text_encoder=str(VIDEO / "text_encoder")), model)
  assert convert(tmp_path / "run", tmp_path / "published") == []
  for name in ("vae", "text_encoder"):
    assert_same_weights(VIDEO / name, tmp_path / "published" / name)
  for name in ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"):
    assert (tmp_path / "published" / name).read_bytes() == (VIDEO / name).read_bytes()


def test_parts_by_name(ours):
  model = open_folder(VIDEO).card.model
  assert load_autoencoder("pixels").latent_dim == 1 and load_autoencoder(None) is None
  assert load_text_encoder("words", model).dim == model.text_dim
  assert load_text_encoder("text_encoder", model, VIDEO).dim == model.text_dim
  assert load_autoencoder("vae", ours / VIDEO.relative_to(ROOT)).latent_dim == model.latent_dim
  for name, message in (("pixel", "neither a folder nor a built-in vae"), ("text_encoder", "expected a vae")):
    with pytest.raises(ValueError, match=message):
      load_autoencoder(name, VIDEO)


def test_training_starts_from_any_form(ours, trained):
  model = open_folder(VIDEO).card.model
  for folder in (VIDEO, ours / VIDEO.relative_to(ROOT)):
    state = load_transformer(folder, dataclasses.replace(model, dtype="bfloat16", remat="dots"))
    assert all(variable[...].dtype == np.float32 for _, variable in nnx.to_flat_state(state))
  with pytest.raises(ValueError, match="model.mixer_rank is .* there, None here"):
    load_transformer(VIDEO, dataclasses.replace(model, mixer_rank=None))
  with pytest.raises(ValueError, match="no transformer"):
    load_transformer(ours / AUTOENCODERS[0], model)


@pytest.mark.slow
@pytest.mark.parametrize("autoencoder", ["pixels", "rgb"])
def test_an_exported_training_run_generates_by_itself(tmp_path, autoencoder):
  """There and back: the same clip, and the same weights to the bit."""
  cfg = dataclasses.replace(TINY, width=64, latent_dim={"pixels": 1, "rgb": 3}[autoencoder])
  card = dataclasses.replace(
      CARD, model=cfg, autoencoder=autoencoder, num_frames=2,
      sample=SampleConfig(2, 3, 1.5, motion_flow=4.0, fps=8.0, told_fps=24.0))
  save(tmp_path / "run", card, cfg)
  convert(tmp_path / "run", tmp_path / "published")
  convert(tmp_path / "published", tmp_path / "ours")
  convert(tmp_path / "ours", tmp_path / "again")
  convert(tmp_path / "again", tmp_path / "ours again")
  expected = Pipeline.load(tmp_path / "run")("the digit one")
  assert expected.shape[1] == 2 and expected.std() > 0
  for name in ("published", "ours", "again"):
    pipe = Pipeline.load(tmp_path / name)
    assert dataclasses.replace(pipe.card, parts=(), source="", versions="") == card
    assert np.array_equal(pipe("the digit one"), expected), name
  index = {"_class_name", "_diffusers_version", "transformer", "scheduler"}
  assert read_json(tmp_path / "published/model_index.json").keys() == index
  files = lambda name: {
      file.relative_to(tmp_path / name): file.read_bytes()
      for file in (tmp_path / name).rglob("*") if file.is_file()}
  assert files("again") == files("published")
  assert read_card(tmp_path / "ours").parts == read_card(tmp_path / "ours again").parts


@pytest.mark.parametrize("change, message", [
    ({"version": 2}, "'version': 1"), ({"autoencoder": "../../etc"}, "autoencoder: expected one of pixels, rgb"),
    ({"num_frames": 0}, "num_frames"), ({"sample": {"fsp": 1.0}}, "did you mean 'fps'")])
def test_exports_that_cannot_be_read(trained, tmp_path, change, message):
  convert(trained, tmp_path / "published")
  file = tmp_path / "published/nova_jax.json"
  file.write_text(json.dumps(read_json(file) | change), encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    open_folder(tmp_path / "published")


@pytest.mark.slow
def test_built_in_parts_of_a_base_stay(trained, tmp_path):
  convert(trained, tmp_path / "published")
  convert(tmp_path / "published", tmp_path / "ours", base=trained)
  card = read_card(tmp_path / "ours")
  assert (card.autoencoder, card.text_encoder) == ("pixels", "words")
  pipe = Pipeline.load(tmp_path / "ours")
  assert np.array_equal(pipe("one"), Pipeline.load(trained)("one"))
