"""Models for tests without a hundred small programs: an eager constructor compiles one for each shape it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nova_jax.checkpoints.load import load_model
from nova_jax.checkpoints.model_card import LoraCard, ModelCard, write_card
from nova_jax.checkpoints.model_folder import open_folder
from nova_jax.checkpoints.part_digest import weights_digest
from nova_jax.checkpoints.store import Checkpointer
from nova_jax.config import LoraConfig, ModelConfig, SampleConfig, SchedulerConfig
from nova_jax.models.lora import add_lora
from nova_jax.models.nova import NOVA

# A model of the moving digits that trains in a moment.
SMALL_DIGITS = ModelConfig(
    latent_dim=1, latent_size=(16, 16), patch_size=4, width=32, num_heads=2, temporal_depth=1, spatial_depth=2,
    denoiser_depth=1, denoiser_width=16, base_frames=2, text_dim=8, text_len=8, mixer_rank=2)


def slow(*values):
  """Return the values of one case of a parametrised test as a slow case."""
  return pytest.param(*values, marks=pytest.mark.slow)


def quick_if(quick, values):
  """Return cases of a parametrised test, those slow whose text holds none of some words."""
  return [value if any(word in str(value) for word in quick) else slow(value) for value in values]


def fields(batch):
  """Return the arrays of a batch and of its condition by name."""
  values = batch._asdict() | batch.condition._asdict()
  return {name: value for name, value in values.items() if name != "condition" and value is not None}


def make(cfg: ModelConfig, seed: int = 0) -> NOVA:
  """Make a model, by NumPy, in which nothing is zero, so that every path carries a signal."""
  graph, state = nnx.split(nnx.eval_shape(lambda: NOVA(cfg, rngs=nnx.Rngs(0))))
  rng = np.random.default_rng(seed)

  def fill(path, shape):
    name = path[-2].key if isinstance(path[-1], jax.tree_util.GetAttrKey) else path[-1].key
    width = max(shape.shape[:-1]) ** -0.5 if name == "kernel" else 0.1
    return jnp.asarray(((name == "scale") + width * rng.standard_normal(shape.shape)).astype(shape.dtype))

  return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))


def save_run(folder, cfg: ModelConfig, seed: int = 0) -> None:
  """Write the workdir of a run, whose averages and last weights are those of `make`."""
  _, params, buffers = nnx.split(make(cfg, seed), nnx.Param, ...)
  _save(folder, cfg, params, {"buffers": nnx.to_pure_dict(buffers)})


def save_lora_run(folder, base, cfg: ModelConfig, lora: LoraConfig, seed: int = 0) -> NOVA:
  """Write the workdir of a run that trained a LoRA for the model in `base`; return that model with the LoRA."""
  model = load_model(base)
  add_lora(model, lora, "float32", rngs=nnx.Rngs(0))
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
      lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32), nnx.state(model, nnx.LoRAParam))
  nnx.update(model, params)
  card = LoraCard(str(base), weights_digest(open_folder(base).transformer()), lora)
  _save(folder, cfg, params, {}, lora=card)
  return model


def _save(folder, cfg, params, others, **fields):
  params = nnx.to_pure_dict(params)
  checkpoints = Checkpointer(folder / "checkpoints", 1)
  checkpoints.save(1, {"params": params, "ema": params, **others}, {}, {})
  checkpoints.close()
  sample = SampleConfig(2, 2, 2.0)
  write_card(folder, ModelCard(cfg, SchedulerConfig(), "words", "pixels", cfg.base_frames, sample, **fields))
