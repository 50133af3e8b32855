"""From a folder of real clips to a model that shows them when it is given their captions."""

import dataclasses

import jax
import numpy as np
import pytest
from data.cache.footage import CLIPS
from flax import nnx

from configs import finetune
from nova_jax.autoencoders import make_autoencoder
from nova_jax.checkpoints.load import load_transformer
from nova_jax.checkpoints.model_card import card_from_experiment
from nova_jax.checkpoints.store import find, open_arrays
from nova_jax.config import (
  CacheConfig,
  DataConfig,
  Experiment,
  MeshConfig,
  ModelConfig,
  OptimizerConfig,
  SampleConfig,
  SourceConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.data.cache.build import build
from nova_jax.data.cache.records import ShardReader
from nova_jax.data.sources import needs_text_encoder, open_caches
from nova_jax.models.nova import NOVA
from nova_jax.parallel.sharding import make_mesh
from nova_jax.pipeline import Pipeline
from nova_jax.text import make_text_encoder
from nova_jax.train.check import check
from nova_jax.train.nova import train_nova
from nova_jax.utils.fields import from_dict

CAPTIONS = {
    "bigbuckbunny.mp4": "a fat white rabbit in front of a tree",
    "bikes.mp4": "a white truck from above",
    "carphone_pristine.mp4": "a man talks in a car",
}
MODEL = ModelConfig(
    latent_dim=3, latent_size=(16, 24), patch_size=4, width=64, num_heads=2, temporal_depth=1, spatial_depth=2,
    denoiser_depth=2, denoiser_width=64, base_frames=2, text_dim=32, text_len=10, mixer_rank=-1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clips")
  for name, caption in CAPTIONS.items():
    (folder / name).symlink_to(CLIPS[name])
    (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
  cfg = CacheConfig(buckets=((2, 16, 24),), stride=10, text_encoder="words", text_dim=32, text_len=10)
  output = tmp_path_factory.mktemp("cache")
  return output, build(str(folder), output, cfg)


def make_experiment(folder, **fields):
  return Experiment(
      model=MODEL, text_encoder="words", autoencoder="rgb",
      data=DataConfig(name="caches", sources=(SourceConfig(str(folder)),), motion_dropout=0.5),
      train=TrainConfig(**{
          "steps": 320, "stages": (StageConfig("video", 1.0, 6, 2),), "loss_repeat": 2, "ema_decay": 0.95,
          "log_every": 80, **fields}),
      optimizer=OptimizerConfig(name="muon", learning_rate=5e-3, schedule="cosine", warmup_steps=20),
      sample=SampleConfig(num_inference_steps=4, num_diffusion_steps=10, guidance_scale=1.0))


def distances(pipe, records):
  """Return the mean difference of each generated clip from each real one, in steps of 255."""
  clips = pipe([record.caption for record in records], num_frames=2, seed=1)  # Their motion would tell, too.
  real = np.stack([record.moments.astype(np.float32) * 127.5 + 127.5 for record in records])
  return np.abs(clips[:, None].astype(np.float32) - real).mean((2, 3, 4, 5))


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trained")
  train_nova(make_experiment(cache[0]), workdir, mesh=make_mesh(MeshConfig(1, 1), jax.devices()[:1]))
  return workdir


@pytest.mark.slow
def test_a_model_learns_clips_and_shows_them_when_told_their_captions(cache, trained):
  folder, manifest = cache
  reader = ShardReader(folder / manifest.shards[0].file)
  records = [reader[i] for i in range(3)]
  assert {record.caption for record in records} == set(CAPTIONS.values())
  untrained = Pipeline(
      card_from_experiment(make_experiment(folder)), NOVA(MODEL, rngs=nnx.Rngs(0)), make_text_encoder("words", MODEL),
      make_autoencoder("rgb"))
  before = np.diag(distances(untrained, records))
  after = distances(Pipeline.load(trained), records)
  print(f"distance to the clips: untrained {before}, trained\n{after}")
  assert (after.argmin(1) == np.arange(3)).all()  # Each is nearest to its own clip,
  assert (np.diag(after) < 0.3 * before).all()  # which an untrained model is far from.


@pytest.mark.slow
def test_the_config_starts_from_a_checkpoint_of_its_own_kind(cache, trained):
  experiment = from_dict(Experiment, finetune.get_config(str(trained)))
  assert (experiment.model, experiment.text_encoder, experiment.autoencoder) == (MODEL, "words", "rgb")
  assert experiment.train.stages[0].num_frames == 2
  data = dataclasses.replace(experiment.data, sources=(SourceConfig(str(cache[0])),))
  experiment = dataclasses.replace(experiment, data=data)
  assert not needs_text_encoder(experiment)
  autoencoder = make_autoencoder("rgb")
  check(experiment, make_mesh(experiment.mesh), autoencoder, open_caches(experiment, autoencoder, None))
  weights = nnx.to_pure_dict(load_transformer(experiment.init, experiment.model))
  ours = open_arrays(find(trained / "checkpoints"))["ema/image_encoder/norm/scale"].read()
  np.testing.assert_array_equal(weights["image_encoder"]["norm"]["scale"], ours)


def test_the_small_config_is_whole():
  experiment = from_dict(Experiment, finetune.get_config())
  assert experiment.init == "" and experiment.model == finetune.SMALL
