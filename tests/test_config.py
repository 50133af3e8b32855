"""Configs: from dataclass to flags and back, and what is refused."""

import dataclasses

import pytest

from nova_jax.config import PRESETS, Experiment, ModelConfig, SampleConfig, SourceConfig, StageConfig, TrainConfig
from nova_jax.utils.fields import from_dict, to_config_dict

EXPERIMENT = Experiment(
    model=PRESETS["digits"], train=TrainConfig(stages=(StageConfig(name="image"), StageConfig(num_frames=4))))


def test_round_trip():
  assert from_dict(Experiment, to_config_dict(EXPERIMENT)) == EXPERIMENT


def test_overrides_reach_the_dataclass():
  config = to_config_dict(EXPERIMENT)
  config.train.steps = 7
  config.train.stages[1].batch_size = 8
  config.model.mixer_rank = None
  experiment = from_dict(Experiment, config)
  assert (experiment.train.steps, experiment.train.stages[1].batch_size, experiment.model.mixer_rank) == (7, 8, None)


def test_caches_are_named_by_their_paths_alone():
  config = to_config_dict(EXPERIMENT)
  config.data.sources = ("caches/a", {"path": "caches/b", "weight": 2.0})
  config.eval.sources = ("caches/c",)
  experiment = from_dict(Experiment, config)
  assert experiment.data.sources == (SourceConfig("caches/a"), SourceConfig("caches/b", 2.0))
  assert experiment.eval.sources == (SourceConfig("caches/c"),)
  with pytest.raises(ValueError, match="config.scheduler: expected the fields of a SchedulerConfig, got 'ddpm'"):
    from_dict(Experiment, {"model": dict(config.model), "scheduler": "ddpm"})


def test_a_none_can_be_overridden():
  config = to_config_dict(Experiment(model=dataclasses.replace(PRESETS["digits"], mixer_rank=None)))
  config.model.mixer_rank = 4
  assert from_dict(Experiment, config).model.mixer_rank == 4


@pytest.mark.parametrize("values, words", [
    ({"model": {"widht": 3}}, ("config.model.widht", "width")),
    ({"model": {}}, ("lacks", "width")),
    ({}, ("lacks", "model")),
    ({"modell": 1}, ("config.modell", "model")),
])
def test_bad_fields_are_named(values, words):
  with pytest.raises(ValueError) as error:
    from_dict(Experiment, values)
  assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("path, value, expected", [
    ("steps", "many", "expected a whole number"), ("steps", 1.5, "expected a whole number"),
    ("ema_decay", "x", "expected a number"), ("mask_ratio", (0.7,), "expected 2 values"),
    ("freeze", "text", "expected a tuple")])
def test_wrong_types_are_named(path, value, expected):
  with pytest.raises(ValueError, match=f"train.{path}.*{expected}"):
    from_dict(TrainConfig, {path: value}, "train")


@pytest.mark.parametrize("change, message", [
    ({"num_heads": 3}, "heads"), ({"latent_size": (15, 16)}, "video patches"), ({"dtype": "float16"}, "dtype"),
    ({"remat": "some"}, "remat"), ({"num_classes": 10}, "either"), ({"text_dim": None}, "either")])
def test_impossible_models_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(PRESETS["digits"], **change)


def test_sizes_that_follow():
  cfg = PRESETS["nova-d48w1024-osp480"]
  assert (cfg.image_grid, cfg.video_grid, cfg.num_image_tokens, cfg.num_video_tokens) == ((30, 48), (15, 24), 1440, 360)
  assert cfg.num_condition_tokens == 256 + 2 and cfg.patch_dim == 16
  assert isinstance(cfg, ModelConfig)


def test_a_value_of_a_stranger_is_shown_in_part():
  with pytest.raises(ValueError, match="expected a number, got 'xx") as error:
    from_dict(SampleConfig, {"fps": "x" * 10_000})
  assert len(str(error.value)) < 300
