"""NOVA with the frames of a clip in one block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tools.baselines.tiny import NOVA, NUM_FRAMES, NUM_TOKENS, ONE_BLOCK, inputs, make

from nova_jax.diffusion.batch import Batch
from nova_jax.models.embeddings import patchify
from nova_jax.sampling.frame_context import Model
from nova_jax.tools.baselines.one_block import MASK_RATIO, stack
from nova_jax.train.flops import forward_flops
from nova_jax.train.masking import draw_num_visible


@pytest.fixture(scope="module")
def model():
  return make(ONE_BLOCK)


def test_tokens_of_a_clip_are_those_of_its_frames():
  latents, _ = inputs()
  tokens = patchify(stack(latents), NOVA.patch_size)[:, 0]
  assert tokens.shape == (2, NUM_TOKENS, 16)
  np.testing.assert_array_equal(tokens.reshape(2, NUM_FRAMES, 4, 16), patchify(latents, NOVA.patch_size))


@pytest.mark.slow
def test_loss_compares_tokens_of_all_frames_and_a_clip_draws_from_its_own_key(model):
  latents, condition = inputs()
  keys = jax.random.split(jax.random.key(1), 2)
  num_visible, padded_size = ONE_BLOCK.host_inputs(0, 0)

  @jax.jit
  def loss(latents, condition, keys):
    return ONE_BLOCK.loss(model, Batch(latents, condition), keys, jnp.asarray(num_visible), padded_size)[0]

  apart = [loss(latents[i : i + 1], jax.tree.map(lambda x: x[i : i + 1], condition), keys[i : i + 1]) for i in (0, 1)]
  assert float(loss(latents, condition, keys)) == pytest.approx(np.mean(apart), rel=1e-5)
  by_frame = np.abs(jax.grad(loss)(latents, condition, keys)).sum((0, 2, 3, 4))
  assert (by_frame > 0).all()


def test_any_draw_fits_its_padded_size():
  draws = [ONE_BLOCK.host_inputs(0, step) for step in range(200)]
  assert {size for _, size in draws} == {11}  # 90 % of 12 tokens.
  counts = {count for count, _ in draws}
  assert {0, 1, 2, 3, 4, 5} < counts <= set(range(12)), "other frames are seen"


def test_a_clip_depends_on_its_own_key_and_caption(model):
  _, condition = inputs()
  keys = jax.random.split(jax.random.key(3), 2)
  made = ONE_BLOCK.generate(Model.from_module(model), condition, keys, NUM_FRAMES, 2.0)
  assert made.shape == (2, NUM_FRAMES, 8, 8, 1) and np.isfinite(made).all()
  swapped = jax.tree.map(lambda x: x[::-1], condition)
  again = ONE_BLOCK.generate(Model.from_module(model), swapped, keys[::-1], NUM_FRAMES, 2.0)
  np.testing.assert_allclose(again[::-1], made, rtol=1e-4, atol=1e-4)


def test_flops_are_those_of_one_tall_picture():
  visible = np.mean([draw_num_visible(0, step, NUM_TOKENS, MASK_RATIO) for step in range(1000)])
  assert ONE_BLOCK.forward_flops(NUM_FRAMES) == pytest.approx(forward_flops(ONE_BLOCK.cfg, 1, visible, 2))
