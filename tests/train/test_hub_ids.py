"""Training from models on the hub, by their ids; the hub is a stand-in."""

import dataclasses

import pytest
from checkpoints.published import VIDEO
from data.latent_caches import make_cache, make_record

import nova_jax
from configs import finetune
from nova_jax.checkpoints.hub import pinned
from nova_jax.checkpoints.model_card import card_from_experiment
from nova_jax.config import Experiment
from nova_jax.data.cache import inspect
from nova_jax.data.cache.encoders import open_autoencoder
from nova_jax.data.cache.format import read_manifest
from nova_jax.data.cache.identity import describe_autoencoder
from nova_jax.train import nova
from nova_jax.train.workdir.identity import identify, same_content
from nova_jax.utils.errors import UserError

ID = "ORG/nova"


@pytest.fixture
def experiment(hub):
  hub.add(ID, VIDEO)
  return Experiment(model=nova_jax.open_folder(VIDEO).card.model, init=ID, autoencoder=ID, text_encoder=ID)


def test_a_run_names_the_commits(experiment):
  local = nova._with_local_folders(experiment, reads_init=True)
  commit = pinned(ID).partition("@")[2]
  card = card_from_experiment(local)
  assert local.init.endswith(f"models--ORG--nova/snapshots/{commit}")
  assert card.autoencoder == f"{local.init}/vae" and card.text_encoder == f"{local.init}/text_encoder"
  by_path = dataclasses.replace(
      experiment, init=str(VIDEO), autoencoder=str(VIDEO / "vae"), text_encoder=str(VIDEO / "text_encoder"))
  whole = dataclasses.replace(by_path, autoencoder=str(VIDEO), text_encoder=str(VIDEO))
  assert nova._with_local_folders(whole, reads_init=True) == by_path, "a whole model's folder stands for its parts, too"
  digests = [{name: value["digest"] for name, value in identify(run, {}).items()} for run in (local, by_path)]
  assert digests[0] == digests[1] and {"init", "autoencoder", "text_encoder"} <= digests[0].keys()


def test_a_run_that_continues_needs_no_first_weights(hub, experiment):
  begun = nova._with_local_folders(dataclasses.replace(experiment, autoencoder="rgb", text_encoder="words"), True)
  hub.requests.clear()
  now = nova._with_local_folders(dataclasses.replace(experiment, autoencoder="rgb", text_encoder="words"), False)
  assert now.init == ID and not hub.requests
  known = identify(begun, {})
  assert same_content("init", known, {}, begun.init, ID, continues=True)
  assert not same_content("init", known, {}, begun.init, "ORG/other", continues=True)
  assert not same_content("init", known, {}, str(VIDEO), ID, continues=True)


def test_fine_tuning_and_caches_take_ids(hub, experiment):
  config = finetune.get_config(ID)
  assert config.init.endswith(f"snapshots/{pinned(ID).partition('@')[2]}")
  assert config.autoencoder == f"{config.init}/vae"
  cfg = nova_jax.CacheConfig(buckets=((1, 64, 64),), autoencoder=ID)
  _, described = open_autoencoder(cfg)
  by_path = describe_autoencoder(str(VIDEO), nova_jax.load_autoencoder(str(VIDEO / "vae")))
  assert described == by_path


def test_a_cache_of_a_stranger_s_downloads_nothing(hub, tmp_path):
  hub.add(ID, VIDEO)
  make_cache(tmp_path / "cache", [make_record(0)])
  manifest = read_manifest(tmp_path / "cache")
  settings = dataclasses.replace(manifest.settings, autoencoder=ID)
  with pytest.raises(UserError, match="only what you name yourself is downloaded"):
    inspect.write_sheet(tmp_path / "a.png", tmp_path / "cache", dataclasses.replace(manifest, settings=settings), 1)
  assert not hub.requests
