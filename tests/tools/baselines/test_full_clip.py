"""The diffusion model of whole clips."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tools.baselines.tiny import CFG, FULL_CLIP, NUM_FRAMES, NUM_TOKENS, inputs, make

from nova_jax.config import SchedulerConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.batch import Batch
from nova_jax.sampling.frame_context import Model
from nova_jax.tools.baselines.backbone import tokens_of


@pytest.fixture(scope="module")
def model():
  return make(FULL_CLIP)


def test_every_token_sees_all_tokens_the_time_and_the_caption(model):
  latents, condition = inputs(1)
  text = model.backbone.embed_text(condition)

  def outputs(x, time, text):
    return jnp.square(model(x, time, text)).sum((0, 2))

  by_token, by_time, by_text = jax.jacobian(outputs, argnums=(0, 1, 2))(
      tokens_of(latents, CFG), jnp.array([300.0]), text)
  assert (np.abs(by_token).sum((1, 3)) > 0).all()
  assert (np.abs(by_time) > 0).all()
  assert (np.abs(by_text).sum((1, 3)) > 0).all()


@pytest.mark.slow
def test_a_fresh_model_predicts_nothing_and_its_loss_is_the_targets_square():
  latents, condition = inputs(4)
  model = FULL_CLIP.init(nnx.Rngs(0))
  keys = jax.random.split(jax.random.key(1), 4)
  loss, _ = FULL_CLIP.loss(model, Batch(latents, condition), keys)
  noise = [jax.random.normal(jax.random.split(key)[1], (NUM_TOKENS, 16)) for key in keys]
  assert loss == pytest.approx(float(jnp.square(jnp.stack(noise) - tokens_of(latents, CFG)).mean()), rel=1e-5)


@pytest.mark.slow
def test_loss_gives_each_clip_its_own_time(model):
  latents, condition = inputs(4)
  keys = jax.random.split(jax.random.key(1), 4)
  loss = lambda rows: FULL_CLIP.loss(
      model, jax.tree.map(lambda x: x[rows], Batch(latents, condition)), keys[rows])[0]
  apart = [float(loss(np.array([row]))) for row in range(4)]
  assert float(loss(np.arange(4))) == pytest.approx(np.mean(apart), rel=1e-5)
  times = [int(FULL_CLIP.scheduler.sample_indices(jax.random.split(key)[0], ())) for key in keys]
  assert len(set(times)) == 4


def test_sampling_is_guided_euler_and_a_clip_depends_on_its_own_key(model):
  _, condition = inputs()
  keys, scale = jax.random.split(jax.random.key(3), 2), 2.0
  made = tokens_of(FULL_CLIP.generate(Model.from_module(model), condition, keys, NUM_FRAMES, scale), CFG)

  captions = model.backbone.embed_text(condition)
  nothing = model.backbone.embed_text(condition.without(None))
  predict = jax.jit(lambda x, time, text: model(x, time, text))
  x = jnp.stack([jax.random.normal(key, (NUM_TOKENS, 16)) for key in keys])
  table = FULL_CLIP.scheduler.steps(4)
  for time, delta in zip(table.time, table.delta, strict=True):
    cond, null = (predict(x, jnp.full(2, time), text) for text in (captions, nothing))
    x = x + delta * (null + scale * (cond - null))
  np.testing.assert_allclose(made, x, rtol=1e-4, atol=1e-4)

  swapped = jax.tree.map(lambda x: x[::-1], condition)
  again = tokens_of(FULL_CLIP.generate(Model.from_module(model), swapped, keys[::-1], NUM_FRAMES, scale), CFG)
  np.testing.assert_allclose(again[::-1], made, rtol=1e-4, atol=1e-4)


def test_a_process_that_adds_noise_is_refused():
  with pytest.raises(ValueError, match="flow matching"):
    dataclasses.replace(FULL_CLIP, scheduler=make_scheduler(SchedulerConfig(name="ddpm")))


def test_flops_by_hand():
  # Three of text, the time and twelve tokens.
  blocks = 2 * (24 * 32**2 * 16 + 4 * 32 * 16**2)
  ends = 2 * 8 * 32 * 3 + 12 * 2 * 2 * 16 * 32 + 2 * (256 * 32 + 32 * 32)
  assert FULL_CLIP.forward_flops(3) == blocks + ends
