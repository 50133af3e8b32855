"""Training from latent caches: one compilation a bucket and stage, and no bit changes by stopping, hosts or workers."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
from data.latent_caches import damage, make_cache, make_record
from train import toy_run

from nova_jax.autoencoders import make_autoencoder
from nova_jax.checkpoints.store import find, open_arrays
from nova_jax.config import DataConfig, SourceConfig, StageConfig
from nova_jax.data.cache.format import TextEncoderInfo
from nova_jax.data.cache.identity import describe_autoencoder
from nova_jax.data.sources import open_caches
from nova_jax.train import nova
from nova_jax.train.callbacks.samples import NUM_CLIPS, SampleGrids
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


def train(experiment, workdir, *callbacks):
  # No text encoder is needed: the caches have embeddings.
  caches = open_caches(experiment, make_autoencoder("pixels"), None)
  return toy_run.train(experiment, workdir, *callbacks, data=caches)


def results(workdir):
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
  arrays = {name: array.read() for name, array in open_arrays(find(workdir / "checkpoints")).items()}
  return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines], arrays


def assert_same(workdir, other):
  (lines, arrays), (other_lines, other_arrays) = results(workdir), results(other)
  assert lines == other_lines and arrays.keys() == other_arrays.keys()
  for name in arrays:
    np.testing.assert_array_equal(arrays[name], other_arrays[name], err_msg=name)


@pytest.mark.slow
def test_a_stage_compiles_once_a_bucket_and_continues_bit_for_bit(caches, tmp_path):
  steps = train(make_experiment(caches), tmp_path / "whole").program.steps
  assert len(steps) == 1 + 3  # Stills; clips of two sizes and stills.
  assert [step.run._cache_size() for step in steps.values()] == [1] * 4

  for stop in (3, 10):
    interrupt = toy_run.Do(stop, lambda: os.kill(os.getpid(), signal.SIGTERM))
    train(make_experiment(caches), tmp_path / "stopped", interrupt)
  train(make_experiment(caches), tmp_path / "stopped")
  assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_damage_is_logged_and_ends_the_run_at_the_limit(caches, tmp_path):
  cache = make_cache(
      tmp_path / "cache", [grey(i, 1, (16, 16)) for i in range(4)], autoencoder=PIXELS, text_encoder=WORDS)
  damage(cache, 1)
  experiment = toy_run.make_experiment(steps=8, stages=(StageConfig("image", 1.0, 4, 1),))
  data = DataConfig(name="caches", sources=(SourceConfig(str(cache.path)),), max_damaged=1)
  train(dataclasses.replace(experiment, data=data), tmp_path / "run")
  lines, _ = results(tmp_path / "run")
  assert lines[-1]["damaged_records"] == 1
  with pytest.raises(ValueError, match="array_record, record 1"):
    train(dataclasses.replace(experiment, data=dataclasses.replace(data, max_damaged=0)), tmp_path / "other")


def test_a_cache_that_does_not_fit_leaves_no_workdir(caches, tmp_path):
  experiment = make_experiment(caches)
  other = dataclasses.replace(experiment, autoencoder="rgb")
  with pytest.raises(ValueError, match=r"was made with another autoencoder \(pixels\) than the model's \(rgb\)"):
    nova.train_nova(other, tmp_path / "run", mesh=toy_run.one_device())
  other = dataclasses.replace(experiment, text_encoder="folder")
  with pytest.raises(ValueError, match=r"embeddings of another text encoder \(words\) than the model's \(folder\)"):
    nova.train_nova(other, tmp_path / "run", mesh=toy_run.one_device())
  data = dataclasses.replace(experiment.data, buckets=((16, 16), (8, 16)))
  with pytest.raises(ValueError, match=r"no cache has latents of \(8, 16\); there are \[\(16, 8\), \(16, 16\)\]"):
    nova.train_nova(dataclasses.replace(experiment, data=data), tmp_path / "run", mesh=toy_run.one_device())
  with pytest.raises(ValueError, match=r"^data\.sources\[0\]\.path: there is no folder .*nowhere"):
    sources = (SourceConfig(str(tmp_path / "nowhere")),)
    data = dataclasses.replace(experiment.data, sources=sources)
    nova.train_nova(dataclasses.replace(experiment, data=data), tmp_path / "run", mesh=toy_run.one_device())
  with pytest.raises(ValueError, match=r"^train\.stages\[1\]\.sources\[0\]\.path: there is no folder .*nowhere"):
    stages = (experiment.train.stages[0], dataclasses.replace(experiment.train.stages[1], sources=sources))
    train = dataclasses.replace(experiment.train, stages=stages)
    nova.train_nova(dataclasses.replace(experiment, train=train), tmp_path / "run", mesh=toy_run.one_device())
  assert not (tmp_path / "run").exists()


class Grids(SampleGrids):
  """Notes what would be shown."""

  shown = ()

  def write(self, trainer, path):
    self.shown += ((path.name, trainer.data.examples(trainer.stage.cfg, NUM_CLIPS)),)


@pytest.mark.slow
def test_sample_grids_show_records_of_the_cache(caches, tmp_path):
  grids = Grids(5, None, None, None)
  train(make_experiment(caches), tmp_path, grids)
  assert [name for name, _ in grids.shown] == [
      "step_000005.png", "step_000010.png", "step_000015.png", "step_000018.png"]
  examples = grids.shown[-1][1]  # Clips of the model's size.
  assert [int(caption.split()[-1]) for caption in examples.captions] == [0, 2, 4, 6, 8, 10]
  assert examples.condition.keys() == {"text_embeds", "motion_flow", "fps"}
  assert [embeds.shape for embeds in examples.condition["text_embeds"]] == [(3, 64)] * 6
  assert examples.condition["fps"] == [24.0] * 6
