"""Published configs: what they become, what they come back as, and what is refused."""

import dataclasses

import pytest
from parity.reference import ROOT, files
from tables.read import NAMES, read_table

from nova_jax.checkpoints.published_configs import (
  model_config,
  parse_arch,
  published_model,
  published_scheduler,
  scheduler_config,
  with_mixer,
)
from nova_jax.checkpoints.store import LazyArray
from nova_jax.config import PRESETS, SchedulerConfig
from nova_jax.utils.files import read_json

CONFIGS = files("*/pipeline/transformer/config.json")
RELEASED = [name for name in NAMES if name in PRESETS]


@pytest.mark.parametrize("name", RELEASED)
def test_presets_are_the_released_models(name):
  assert model_config(read_table(name)[0]) == PRESETS[name]


def test_all_presets_but_those_of_digits_are_released():
  assert PRESETS.keys() - set(RELEASED) == {"digits", "two_digits"}


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_models_come_back(path):
  published = read_json(ROOT / path)
  cfg = model_config(published)
  assert model_config(published_model(cfg)) == cfg


def test_the_demo_has_a_published_config():
  published = published_model(PRESETS["digits"])
  assert published["arch"] == ["vit_d3w128", "vit_d4w128", "mlp_d3w128"]
  assert model_config(published) == dataclasses.replace(PRESETS["digits"], remat="none")


@pytest.mark.parametrize("change, message", [
    ({"num_heads": 8}, "4 heads, got 8"), ({"patch_size": 8, "latent_size": (48, 48)}, None),
    ({"patch_size": 3, "latent_size": (48, 48)}, "patch_size"), ({"norm": "pre"}, "'post' only, got 'pre'"),
    ({"history": False}, "model.history")])
def test_models_that_the_published_code_cannot_build(change, message):
  cfg = dataclasses.replace(PRESETS["digits"], **change)
  if message is None:
    assert model_config(published_model(cfg)).patch_size == cfg.patch_size
    return
  with pytest.raises(ValueError, match=message):
    published_model(cfg)


@pytest.mark.parametrize("change, message", [
    ({"arch": ["vit_d2w64", "vit_d4w96", "mlp_d2w96"]}, "one width"),
    ({"arch": ["vit", "vit_d4w64", "mlp_d2w96"]}, "arch"), ({"arch": ["vit_d2w65", "vit_d4w65", "mlp_d2w96"]}, "heads"),
    ({"arch": ["vit_d2w64"]}, "expected 3 values"), ({"arch": [1, 2, 3]}, "arch"),
    ({"image_base_size": [4, 5]}, "grids"),
    ({"image_stride": 0}, "positive"), ({"image_stride": "8"}, "image_stride"), ({"image_size": None}, "image_size"),
    ({"image_size": ["a", "b"]}, "image_size"), ({"image_size": [64]}, "image_size"),
    ({"video_base_size": []}, "video_base_size"), ({"image_dim": 0}, "latent_dim"),
    ({"text_token_dim": "a"}, "text_token_dim"), ({"video_mixer_rank": []}, "video_mixer_rank")])
def test_impossible_models_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    model_config(read_json(ROOT / CONFIGS[0]) | change)


def test_missing_fields_are_named():
  with pytest.raises(ValueError, match="image_dim"):
    model_config({"_class_name": "NOVATransformer3DModel", "arch": ["vit_d2w64", "vit_d4w64", "mlp_d2w96"]})


@pytest.mark.parametrize("weights, rank", [
    ({}, None), ({"mixer.proj": (128, 64)}, -1), ({"mixer.proj": (128, 8), "mixer.lora": (8, 64)}, 8)])
def test_the_rank_of_scaling_and_shift_is_found_in_the_weights(weights, rank):
  stored = {f"video_encoder.{name}.weight": LazyArray(shape, None, None) for name, shape in weights.items()}
  for omitted in ({}, {"video_mixer_rank": None}):
    assert with_mixer(omitted, stored).get("video_mixer_rank") == rank
  assert with_mixer({"video_mixer_rank": 4}, stored) == {"video_mixer_rank": 4}


@pytest.mark.parametrize("cfg, module", [
    (SchedulerConfig(shift=3.0), "diffnext.schedulers.scheduling_cfm"),
    (SchedulerConfig("ddpm", beta_schedule="sigmoid"), "diffnext.schedulers.scheduling_ddpm"),
    (SchedulerConfig("diffusers_ddpm", clip_sample=False, steps_offset=1), "diffusers")])
def test_schedulers_come_back(cfg, module):
  published, pair = published_scheduler(cfg)
  assert pair == [module, published["_class_name"]]
  assert scheduler_config(published, "diffusers" if module == "diffusers" else "nova") == cfg


@pytest.mark.parametrize("fields, library, message", [
    ({"_class_name": "EulerDiscreteScheduler"}, "diffusers", "DDPMScheduler"), ({}, "nova", "DDPMScheduler"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "nova", "use_dynamic_shifting"),
    ({"_class_name": "DDPMScheduler", "trained_betas": [0.1]}, "nova", "trained_betas"),
    ({"_class_name": "DDPMScheduler", "beta_start": "0"}, "nova", "beta_start")])
def test_other_schedulers_are_refused(fields, library, message):
  with pytest.raises(ValueError, match=message):
    scheduler_config(fields, library)


def test_arch_names():
  assert parse_arch("vit_d16w1024", "vit") == (16, 1024)
  with pytest.raises(ValueError, match="vit_dDEPTHwWIDTH"):
    parse_arch("vit_d16", "vit")
