"""Names and configs of published checkpoints: what fits, and how what doesn't is reported."""

import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from nova_jax.convert.configs import model_config, scheduler_config
from nova_jax.convert.files import read_json, read_weights
from nova_jax.convert.keys import to_ours
from nova_jax.models.nova import NOVA
from parity.reference import ROOT, files

CONFIGS = files("*/pipeline/transformer/config.json")


def load(path):
  cfg = model_config(read_json(ROOT / path))
  return cfg, nnx.state(nnx.eval_shape(lambda: NOVA(cfg, rngs=nnx.Rngs(0)))), read_weights((ROOT / path).parent)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_value_arrives_once(path):
  cfg, shapes, weights = load(path)
  ours = to_ours(weights, shapes, cfg)
  ours = np.concatenate([np.asarray(variable[...]).ravel() for _, variable in nnx.to_flat_state(ours)])
  theirs = np.concatenate([array.astype(np.float32).ravel() for array in weights.values()])
  assert np.array_equal(np.sort(ours), np.sort(theirs))


def test_all_misfits_are_named_at_once():
  cfg, shapes, weights = load(CONFIGS[0])
  names = [name for name in weights if name.endswith("fc1.weight")]
  weights = dict(weights)
  weights["image_decoder.extra"] = weights.pop(names[0])
  weights[names[1]] = weights[names[1]][:-1]
  with pytest.raises(ValueError) as error:
    to_ours(weights, shapes, cfg)
  assert "image_decoder.extra: not a parameter" in str(error.value)
  assert f"{names[1]}: shape" in str(error.value) and "missing" in str(error.value)


def test_a_layer_too_many_is_named():
  cfg, shapes, weights = load(CONFIGS[0])
  name = "video_encoder.blocks.99.norm1.weight"
  with pytest.raises(ValueError, match=r"blocks\.99\.norm1\.weight: the model has \d+ such layers"):
    to_ours(weights | {name: weights["video_encoder.blocks.0.norm1.weight"]}, shapes, cfg)


@pytest.mark.parametrize("change, message", [
    ({"arch": ["vit_d2w64", "vit_d4w96", "mlp_d2w96"]}, "one width"), ({"arch": ["vit", "vit_d4w64", "mlp_d2w96"]}, "arch"),
    ({"arch": ["vit_d2w65", "vit_d4w65", "mlp_d2w96"]}, "heads"), ({"image_base_size": [4, 5]}, "grids")])
def test_impossible_configs_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    model_config(read_json(ROOT / CONFIGS[0]) | change)


@pytest.mark.parametrize("fields, library, message", [
    ({"_class_name": "EulerDiscreteScheduler"}, "diffusers", "DDPMScheduler"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "nova", "use_dynamic_shifting"),
    ({"_class_name": "DDPMScheduler", "trained_betas": [0.1]}, "nova", "trained_betas")])
def test_other_schedulers_are_refused(fields, library, message):
  with pytest.raises(ValueError, match=message):
    scheduler_config(fields, library)


def test_damaged_files_are_named(tmp_path):
  with pytest.raises(ValueError, match="does not exist"):
    read_weights(tmp_path)
  (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"\x10" * 100)
  with pytest.raises(ValueError, match="not a readable safetensors"):
    read_weights(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="is not JSON"):
    read_json(tmp_path / "config.json")


def test_shards_are_read_as_one(tmp_path):
  _, _, weights = load(CONFIGS[0])
  names = sorted(weights)
  shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
  for file, part in shards.items():
    save_file({name: weights[name] for name in part}, tmp_path / file)
  index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
  (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
  read = read_weights(tmp_path)
  assert sorted(read) == names and all(np.array_equal(read[name], weights[name]) for name in names)
