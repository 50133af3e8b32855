"""What `import nova_jax` offers to those who build with it."""

import doctest
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import make
from models.test_nova import TINY, inputs
from pipeline.test_pipeline import CARD, save

import nova_jax
from nova_jax.diffusion.loss import forward
from nova_jax.sampling.frame_context import Model
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.inputs import Conditions, Inputs
from nova_jax.sampling.plan import make_plan
from nova_jax.sampling.sampler import generate


def test_the_example_of_the_package_runs():
  assert doctest.testmod(nova_jax).failed == 0


def test_no_public_name_is_that_of_a_room():
  rooms = {path.stem for path in Path(nova_jax.__file__).parent.iterdir()}
  assert not rooms & set(nova_jax.__all__), "once imported, the room would stand for the name"


def test_every_public_name_is_there_and_is_completed():
  assert nova_jax.__version__
  for name in nova_jax.__all__:
    assert getattr(nova_jax, name) is not None and name in dir(nova_jax)
  assert "Any" not in dir(nova_jax), "what the module itself imports is not offered"
  with pytest.raises(AttributeError, match="no attribute 'Nova'"):
    nova_jax.Nova  # noqa: B018


def test_data_is_decoded_without_jax():
  code = "import sys, nova_jax, nova_jax.media; dir(nova_jax); sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_loss_draws_all_randomness_from_its_key():
  latents, condition = inputs(TINY, 3)
  batch, scheduler, model = {"latents": latents, **condition}, nova_jax.FlowMatching(), make(TINY)
  graph, state = nnx.split(model)
  parts = jax.jit(lambda key, low: nova_jax.loss(
      nnx.merge(graph, state), scheduler, batch, key, loss_repeat=2, mask_ratio=(low, 1.0))[1], static_argnums=1)
  one, again, other = (parts(jax.random.key(seed), 0.5) for seed in (0, 0, 1))
  assert one == again and one["loss"] != other["loss"] and set(one) == {"loss", "loss_t2i", "loss_i2i"}


def test_a_loss_masks_as_it_is_told(monkeypatch):
  counts = []

  def record(model, scheduler, batch, draws, num_visible, history):
    counts.append((draws.visible_ids.shape[-1], num_visible))
    return forward(model, scheduler, batch, draws, num_visible, history)

  monkeypatch.setattr("nova_jax.diffusion.loss.forward", record)
  latents, condition = inputs(TINY, 1)
  graph, state = nnx.split(make(TINY))

  @jax.jit
  def visible(key):
    nova_jax.loss(
        nnx.merge(graph, state), nova_jax.FlowMatching(), {"latents": latents, **condition}, key, loss_repeat=1,
        mask_ratio=(0.25, 0.75))
    return counts[-1][1]

  num_visible = np.array([visible(jax.random.key(seed)) for seed in range(40)])
  most = round(0.75 * TINY.num_image_tokens)
  assert counts[-1][0] == most and num_visible.max() <= most
  assert num_visible.min() >= round(0.25 * TINY.num_image_tokens) and len(set(num_visible.tolist())) > 2


def test_a_model_is_loaded_alone(tmp_path, caplog):
  save(tmp_path)
  caplog.clear()
  model = nova_jax.load_model(tmp_path, remat="block")
  assert not [record for record in caplog.records if record.levelname == "WARNING"], "a library that works is quiet"
  pipe = nova_jax.Pipeline.load(tmp_path)
  assert model.cfg.remat == "block" and model.cfg.width == CARD.model.width
  jax.tree.map(np.testing.assert_array_equal, nnx.state(model), pipe.model.state)


def test_sampling_guides_against_no_caption():
  _, condition = inputs(TINY, 1)
  model, scheduler = make(TINY), nova_jax.FlowMatching()
  latents = nova_jax.sample(
      model, scheduler, condition, jax.random.key(5), num_frames=2, num_inference_steps=4, num_diffusion_steps=3,
      guidance_scale=3.0)
  plan = make_plan(TINY, scheduler, num_frames=2, num_sets=4, num_steps=3, guidance=Guidance(3.0))
  null = condition | {"text_lengths": np.zeros(2, int)}
  keys = jax.random.split(jax.random.key(5), 2)
  expected = list(generate(Model.from_module(model), plan, Inputs(Conditions(condition, null), keys)))
  np.testing.assert_array_equal(latents, np.stack(expected, axis=1))
