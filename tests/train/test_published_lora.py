"""A published model gets a LoRA and gives it back: all other weights keep their bits, in every form of its folder."""

import dataclasses
import hashlib
import shutil

import jax
import numpy as np
import pytest
from checkpoints.published import VIDEO, assert_same_weights

import nova_jax
from configs import lora
from nova_jax.checkpoints.components import PARTS
from nova_jax.checkpoints.convert import convert
from nova_jax.checkpoints.lora import open_lora
from nova_jax.checkpoints.lora_export import write_lora
from nova_jax.checkpoints.weight_files import open_weights
from nova_jax.config import CacheConfig, Experiment, MeshConfig, SourceConfig, StageConfig
from nova_jax.data.cache.build import build
from nova_jax.media import write_mp4
from nova_jax.parallel.sharding import make_mesh
from nova_jax.train.nova import train_nova
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import read_json


def digests(folder):
  return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A published model, and a LoRA that was trained for it from a clip; the digests of the model's files before."""
  folder = tmp_path_factory.mktemp("published")
  shutil.copytree(VIDEO, folder / "model")
  before = digests(folder / "model")
  model = nova_jax.open_folder(folder / "model").card.model
  (folder / "clips").mkdir()
  write_mp4(folder / "clips/a.mp4", np.random.default_rng(0).integers(0, 255, (9, 64, 96, 3), np.uint8), 8)
  (folder / "clips/a.txt").write_text("a fox", encoding="utf-8")
  build(str(folder / "clips"), folder / "cache", CacheConfig(
      buckets=((9, 64, 96),), autoencoder=str(folder / "model"), text_encoder=str(folder / "model"),
      text_len=model.text_len))
  cfg = from_dict(Experiment, lora.get_config(str(folder / "model")))
  train = dataclasses.replace(
      cfg.train, steps=2, loss_repeat=1, sample_every=0, lora=dataclasses.replace(cfg.train.lora, rank=1),
      stages=(StageConfig("video", 1.0, 2, 3),))
  train_nova(dataclasses.replace(
      cfg, train=train, data=dataclasses.replace(cfg.data, sources=(SourceConfig(str(folder / "cache")),)),
      optimizer=dataclasses.replace(cfg.optimizer, learning_rate=1e-2, warmup_steps=0),
  ), folder / "run", mesh=make_mesh(MeshConfig(), jax.devices()[:1]))
  write_lora(open_lora(folder / "run"), folder / "alone")
  return folder, before


@pytest.mark.slow
def test_a_published_model_takes_a_lora_and_all_else_stays_to_the_bit(folders, tmp_path):
  folder, before = folders
  changed = open_lora(folder / "alone").updates.keys()
  convert(folder / "model", tmp_path / "merged", lora=folder / "alone")
  for part in PARTS:
    stored, merged = open_weights(folder / "model" / part), open_weights(tmp_path / "merged" / part)
    assert stored.keys() == merged.keys()
    differing = {name for name in stored if stored[name].read().tobytes() != merged[name].read().tobytes()}
    assert differing == (changed if part == "transformer" else set())
    assert all(stored[name].dtype == merged[name].dtype for name in stored)
  for path in (folder / "model").rglob("*.json"):
    assert read_json(tmp_path / "merged" / path.relative_to(folder / "model")) == read_json(path), path
  assert digests(folder / "model") == before


@pytest.mark.slow
def test_without_the_lora_the_model_is_the_published_one_again(folders, tmp_path):
  """Converted to Orbax and back, with no LoRA or with one of weight 0; with it both forms are merged alike."""
  folder, _ = folders
  convert(folder / "model", tmp_path / "ours")
  convert(tmp_path / "ours", tmp_path / "back")
  convert(folder / "model", tmp_path / "unloaded", lora={folder / "alone": 0.0})
  for name in ("back", "unloaded"):
    for part in PARTS:
      assert_same_weights(folder / "model" / part, tmp_path / name / part)
  for name in ("model", "ours"):
    base = folder / "model" if name == "model" else tmp_path / "ours"
    convert(base, tmp_path / f"merged_{name}", lora={folder / "alone": 0.8})
  assert_same_weights(tmp_path / "merged_model/transformer", tmp_path / "merged_ours/transformer")
