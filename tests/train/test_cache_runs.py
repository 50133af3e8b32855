"""Training from latent caches: one compilation a bucket and stage, and no bit changes by stopping, hosts or workers."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
from data.latent_caches import damage, make_cache, make_record
from train import toy_run

from nova_jax.autoencoders import make_autoencoder
from nova_jax.checkpoints.store import find, stored_arrays
from nova_jax.config import DataConfig, SourceConfig, StageConfig
from nova_jax.data.cache.format import TextEncoderInfo
from nova_jax.data.cache.identity import describe_autoencoder
from nova_jax.train import loop
from nova_jax.train.metrics import TIMINGS

PIXELS = describe_autoencoder("pixels", make_autoencoder("pixels"))
WORDS = TextEncoderInfo("words", "1" * 64, 64, 8)


def grey(number, frames, size):
  record = make_record(number, frames, size)
  embeds = np.full((3, 64), number, np.float16)
  return dataclasses.replace(
      record, moments=record.moments[..., :1] / 16, text_embeds=embeds, short_text_embeds=embeds[:1])


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
  folder = tmp_path_factory.mktemp("caches")
  clips = [grey(i, 4, (16, 8) if i % 2 else (16, 16)) for i in range(12)]
  stills = [grey(i, 1, (16, 16)) for i in range(12)]
  return tuple(
      make_cache(folder / name, records, autoencoder=PIXELS, text_encoder=WORDS)
      for name, records in (("clips", clips), ("stills", stills)))


def make_experiment(caches, **fields):
  clips, stills = (SourceConfig(str(cache.path)) for cache in caches)
  experiment = toy_run.make_experiment(steps=18, stages=(
      StageConfig("image", 0.3, 8, 1, (stills,)), StageConfig("video", 0.7, 4, 4)), save_every=4)
  data = DataConfig(name="caches", sources=(clips, stills), buckets=((16, 16), (16, 8)), **fields)
  return dataclasses.replace(experiment, data=data)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
  toy_run.patch(monkeypatch.setattr)
  monkeypatch.setattr(loop, "make_mesh", lambda cfg: real_make_mesh(cfg, jax.devices()[:1]))
  # Neither is needed: the caches have embeddings.
  monkeypatch.setattr(loop, "load_text_encoder", None)


real_make_mesh = loop.make_mesh


def results(workdir):
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
  arrays = {name: array.read() for name, array in stored_arrays(find(workdir / "checkpoints")).items()}
  return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines], arrays


def assert_same(workdir, other):
  (lines, arrays), (other_lines, other_arrays) = results(workdir), results(other)
  assert lines == other_lines and arrays.keys() == other_arrays.keys()
  for name in arrays:
    np.testing.assert_array_equal(arrays[name], other_arrays[name], err_msg=name)


def test_a_stage_compiles_once_a_bucket_and_continues_bit_for_bit(caches, tmp_path, monkeypatch):
  programs = []
  real = loop.make_train_step

  def make(*args, **kwargs):
    programs.append(real(*args, **kwargs))
    return programs[-1]

  monkeypatch.setattr(loop, "make_train_step", make)
  loop.train(make_experiment(caches), tmp_path / "whole")
  assert len(programs) == 1 + 3  # Stills; clips of two sizes and stills.
  assert [program._cache_size() for program in programs] == [1] * 4

  draw = loop.draw_num_visible
  for stop in (3, 10):

    def stopping(seed, step, *args, stop=stop):
      if step == stop:
        os.kill(os.getpid(), signal.SIGTERM)
      return draw(seed, step, *args)

    monkeypatch.setattr(loop, "draw_num_visible", stopping)
    loop.train(make_experiment(caches), tmp_path / "stopped")
  monkeypatch.setattr(loop, "draw_num_visible", draw)
  loop.train(make_experiment(caches), tmp_path / "stopped")
  assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_damage_is_logged_and_ends_the_run_at_the_limit(caches, tmp_path):
  cache = make_cache(
      tmp_path / "cache", [grey(i, 1, (16, 16)) for i in range(4)], autoencoder=PIXELS, text_encoder=WORDS)
  damage(cache, 1)
  experiment = toy_run.make_experiment(steps=8, stages=(StageConfig("image", 1.0, 4, 1),))
  data = DataConfig(name="caches", sources=(SourceConfig(str(cache.path)),), max_damaged=1)
  loop.train(dataclasses.replace(experiment, data=data), tmp_path / "run")
  lines, _ = results(tmp_path / "run")
  assert lines[-1]["damaged_records"] == 1
  with pytest.raises(ValueError, match="array_record, record 1"):
    loop.train(dataclasses.replace(experiment, data=dataclasses.replace(data, max_damaged=0)), tmp_path / "other")


def test_a_cache_that_does_not_fit_leaves_no_workdir(caches, tmp_path):
  experiment = make_experiment(caches)
  other = dataclasses.replace(experiment, autoencoder="rgb")
  with pytest.raises(ValueError, match=r"was made with another autoencoder \(pixels\) than the model's \(rgb\)"):
    loop.train(other, tmp_path / "run")
  other = dataclasses.replace(experiment, text_encoder="folder")
  with pytest.raises(ValueError, match=r"embeddings of another text encoder \(words\) than the model's \(folder\)"):
    loop.train(other, tmp_path / "run")
  data = dataclasses.replace(experiment.data, buckets=((16, 16), (8, 16)))
  with pytest.raises(ValueError, match=r"no cache has latents of \(8, 16\); there are \[\(16, 8\), \(16, 16\)\]"):
    loop.train(dataclasses.replace(experiment, data=data), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_sample_grids_show_records_of_the_cache(caches, tmp_path, monkeypatch):
  shown = []
  monkeypatch.setattr(loop, "write_grid", lambda path, pipe, examples, *_: shown.append((path.name, examples)))
  experiment = make_experiment(caches)
  train = dataclasses.replace(experiment.train, sample_every=5)
  loop.train(dataclasses.replace(experiment, train=train), tmp_path)
  assert [name for name, _ in shown] == ["step_000005.png", "step_000010.png", "step_000015.png", "step_000018.png"]
  examples = shown[-1][1]  # Clips of the model's size.
  assert [int(caption.split()[-1]) for caption in examples.captions] == [0, 2, 4, 6, 8, 10]
  assert examples.condition.keys() == {"text_embeds", "motion_flow", "fps"}
  assert [embeds.shape for embeds in examples.condition["text_embeds"]] == [(3, 64)] * 6
  assert examples.condition["fps"] == [24.0] * 6
