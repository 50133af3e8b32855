"""The example of docs/finetuning.md in small: a LoRA begins to learn a sign that the digits model doesn't know."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image, ImageSequence

from configs import lora
from examples import new_sign
from nova_jax.config import CacheConfig, EvalConfig, Experiment, SourceConfig, StageConfig
from nova_jax.data.cache.build import build
from nova_jax.train.nova import train_nova
from nova_jax.utils.fields import from_dict


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  folder = tmp_path_factory.mktemp("signs") / "clips"
  new_sign.main(folder)
  return folder


def test_triangles_move_as_their_captions_say(clips):
  assert len(list(clips.glob("*.gif"))) == len(list(clips.glob("*.txt"))) == 2 * new_sign.NUM_CLIPS
  seen = set()
  for number in range(0, 40, 5):
    caption = (clips / f"triangle-{number:03}.txt").read_text(encoding="utf-8")
    with Image.open(clips / f"triangle-{number:03}.gif") as file:
      video = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(file)]
    places = np.array([np.argwhere(frame > 40).mean(0) for frame in video])
    way = {(0, -1): "left", (0, 1): "right", (-1, 0): "up", (1, 0): "down"}
    (moved,) = {tuple(np.sign(np.rint(step))) for step in np.diff(places, axis=0)}
    assert caption == f"the triangle moves {way[moved]}"
    seen.add(caption)
  assert len(seen) == 4


@pytest.mark.slow  # Trains the model of the package for half a minute.
def test_a_lora_begins_to_learn_them(clips, tmp_path):
  build(str(clips), tmp_path / "cache", CacheConfig(
      buckets=((4, 16, 16),), autoencoder="pixels", text_encoder="words", text_dim=64, text_len=8))
  cfg = from_dict(Experiment, lora.get_config())
  train = dataclasses.replace(
      cfg.train, steps=40, sample_every=0, stages=(StageConfig("video", 1.0, 8, 4),), lora=cfg.train.lora)
  data = dataclasses.replace(cfg.data, sources=(SourceConfig(str(tmp_path / "cache")),))
  train_nova(dataclasses.replace(
      cfg, train=train, data=data, eval=EvalConfig(every=20, batches=2, fraction=0.2)), tmp_path / "run")
  lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
  first, last = (next(line["eval/loss"] for line in lines if line["step"] == step) for step in (20, 40))
  assert last < 0.97 * first
