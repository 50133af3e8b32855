"""From a folder of real clips to a model that shows them when it is given their captions."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from configs import finetune
from data.cache.footage import CLIPS
from nova_jax.autoencoders import make_autoencoder
from nova_jax.card import card_of
from nova_jax.config import (
    CacheConfig, DataConfig, Experiment, ModelConfig, OptimizerConfig, SampleConfig, SourceConfig, StageConfig,
    TrainConfig, from_dict)
from nova_jax.data.cache.build import build
from nova_jax.data.cache.format import ShardReader
from nova_jax.models.nova import NOVA
from nova_jax.pipeline import Pipeline
from nova_jax.text import make_text_encoder
from nova_jax.train import loop

CAPTIONS = {
    "bigbuckbunny.mp4": "a fat white rabbit in front of a tree",
    "bikes.mp4": "a white truck from above",
    "carphone_pristine.mp4": "a man talks in a car",
}
MODEL = ModelConfig(
    latent_dim=3, latent_size=(16, 24), patch_size=4, width=64, num_heads=2, temporal_depth=1, spatial_depth=2,
    denoiser_depth=2, denoiser_width=64, base_frames=2, text_dim=32, text_len=10, mixer_rank=-1)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  make_mesh = loop.make_mesh
  monkeypatch.setattr(loop, "make_mesh", lambda cfg: make_mesh(cfg, jax.devices()[:1]))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clips")
  for name, caption in CAPTIONS.items():
    (folder / name).symlink_to(CLIPS[name])
    (folder / name).with_suffix(".txt").write_text(caption)
  cfg = CacheConfig(buckets=((2, 16, 24),), stride=10, text_encoder="words", text_dim=32, text_len=10)
  output = tmp_path_factory.mktemp("cache")
  return output, build(str(folder), output, cfg)


def make_experiment(folder, **fields):
  return Experiment(
      model=MODEL, text_encoder="words", autoencoder="rgb",
      data=DataConfig(name="caches", sources=(SourceConfig(str(folder)),)),
      train=TrainConfig(**{
          "steps": 320, "stages": (StageConfig("video", 1.0, 6, 2),), "loss_repeat": 2, "ema_decay": 0.95,
          "log_every": 80, **fields}),
      optimizer=OptimizerConfig(name="muon", learning_rate=5e-3, schedule="cosine", warmup_steps=20),
      sample=SampleConfig(num_inference_steps=4, num_diffusion_steps=10, guidance_scale=1.0))


def distances(pipe, records):
  """Return the mean difference of each generated clip from each real one, in steps of 255."""
  clips = pipe(
      [record.caption for record in records], num_frames=2, seed=1,
      motion_flow=[record.motion_flow for record in records], fps=[record.fps for record in records])
  real = np.stack([record.moments.astype(np.float32) * 127.5 + 127.5 for record in records])
  return np.abs(clips[:, None].astype(np.float32) - real).mean((2, 3, 4, 5))


def test_a_model_learns_clips_and_shows_them_when_told_their_captions(cache, tmp_path):
  folder, manifest = cache
  reader = ShardReader(folder / manifest.shards[0].file)
  records = [reader[i] for i in range(3)]
  assert {record.caption for record in records} == set(CAPTIONS.values())
  experiment = make_experiment(folder)
  untrained = Pipeline(
      card_of(experiment), NOVA(MODEL, rngs=nnx.Rngs(0)), make_text_encoder("words", MODEL), make_autoencoder("rgb"))
  before = np.diag(distances(untrained, records))
  loop.train(experiment, tmp_path)
  after = distances(Pipeline.load(tmp_path), records)
  print(f"distance to the clips: untrained {before}, trained\n{after}")
  assert (after.argmin(1) == np.arange(3)).all()  # Each is nearest to its own clip,
  assert (np.diag(after) < 0.4 * before).all()  # which an untrained model is far from.


def test_the_config_starts_from_a_checkpoint_of_its_own_kind(cache, tmp_path):
  folder, _ = cache
  loop.train(make_experiment(folder, steps=1), tmp_path / "base")
  experiment = from_dict(Experiment, finetune.get_config(str(tmp_path / "base")))
  assert (experiment.model, experiment.text_encoder, experiment.autoencoder) == (MODEL, "words", "rgb")
  assert experiment.init == str(tmp_path / "base") and experiment.train.stages[0].num_frames == 2
  data = dataclasses.replace(experiment.data, sources=(SourceConfig(str(folder)),))
  loop.train(
      dataclasses.replace(experiment, data=data, train=dataclasses.replace(experiment.train, steps=1, log_every=1)),
      tmp_path / "tuned")
  assert (tmp_path / "tuned/checkpoints/1").is_dir()
