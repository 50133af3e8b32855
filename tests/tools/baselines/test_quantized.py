"""The codebook, and the causal model of its codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tools.baselines.tiny import CFG, CODEBOOK, NUM_FRAMES, NUM_TOKENS, QUANTIZED, inputs, make

from nova_jax.diffusion.batch import Batch
from nova_jax.models.attention.masks import BlockCausal
from nova_jax.models.layers import unstack
from nova_jax.sampling.frame_context import Model
from nova_jax.tools.baselines.backbone import clips_of, tokens_of, with_null
from nova_jax.tools.baselines.quantized import LayerCache, extend, fit_codebook, nearest, round_trip, sample


@pytest.fixture(scope="module")
def model():
  return make(QUANTIZED, noise=0.3)


def test_tokens_are_novas_and_are_put_back():
  latents, _ = inputs()
  tokens = tokens_of(latents, CFG)
  assert tokens.shape == (2, NUM_TOKENS, 16)
  np.testing.assert_array_equal(tokens[1, 4 + 1], latents[1, 1, :4, 4:].reshape(-1))  # Frame 1, its upper right.
  np.testing.assert_array_equal(clips_of(tokens, CFG), latents)


def test_codebook_is_the_same_each_time_and_near():
  rng = np.random.default_rng(0)
  centres = rng.standard_normal((6, 16), np.float32)
  tokens = centres[rng.integers(0, 6, 300)] + 0.01 * rng.standard_normal((300, 16), np.float32)
  codebook = fit_codebook(tokens, 6, seed=0)
  np.testing.assert_array_equal(codebook, fit_codebook(tokens, 6, seed=0))
  np.testing.assert_allclose(np.sort(codebook, axis=0), np.sort(centres, axis=0), atol=0.01)
  shown = codebook[np.asarray(nearest(tokens, codebook))]
  assert np.abs(shown - tokens).max() < 0.1
  with pytest.raises(ValueError, match="301 codes need as many different tokens, the data has 300"):
    fit_codebook(tokens, 301, seed=0)


def test_round_trip_keeps_what_the_codebook_shows():
  latents, _ = inputs()
  once = round_trip(latents, CODEBOOK, CFG)
  distances = np.square(np.asarray(tokens_of(latents, CFG))[..., None, :] - CODEBOOK).sum(-1)
  np.testing.assert_allclose(
      np.square(tokens_of(once - latents, CFG)).sum(-1), distances.min(-1), rtol=1e-4, err_msg="not the nearest code")
  np.testing.assert_array_equal(round_trip(once, CODEBOOK, CFG), once)


def test_logits_see_earlier_codes_and_the_text_only(model):
  _, condition = inputs(1)
  earlier = model.embed(jnp.arange(NUM_TOKENS - 1)[None] % 10)

  def outputs(earlier, embeds):
    logits = model.predict(earlier, condition._replace(text_embeds=embeds), NUM_FRAMES)
    return jnp.square(logits).sum((0, 2))

  by_code, by_text = jax.jacobian(outputs, argnums=(0, 1))(earlier, condition.text_embeds)
  influence = np.abs(by_code).sum((1, 3)) > 0  # [token, code before it]
  assert np.array_equal(influence, np.tri(NUM_TOKENS, NUM_TOKENS - 1, k=-1, dtype=bool))
  assert (np.abs(by_text)[:, 0, :2].sum(-1) > 0).all(), "every token must see the whole caption"
  assert not np.abs(by_text)[:, 0, 2].any(), "what is behind a caption is the null table's"


def test_a_code_is_not_seen_by_its_own_logits(model):
  _, condition = inputs(1)
  codes = jnp.zeros((1, NUM_TOKENS), jnp.int32)
  logits = [model(codes.at[0, 5].set(code), condition, NUM_FRAMES)[0] for code in (0, 1)]
  differ = np.abs(logits[0] - logits[1]).max(-1) > 1e-5
  np.testing.assert_array_equal(differ, np.arange(NUM_TOKENS) > 5)


def test_blocks_that_are_extended_equal_those_that_run_whole(model):
  x = jax.random.normal(jax.random.key(4), (2, 3 + NUM_TOKENS, CFG.width))
  whole = jax.jit(lambda x: model.backbone(x[:, :3], x[:, 3:], BlockCausal(3, 1)))(x)

  @jax.jit
  def in_pieces(x):
    shape = (2, CFG.num_heads, 3 + NUM_TOKENS, CFG.width // CFG.num_heads)
    blocks, outputs, start = unstack(model.backbone.blocks), [], 0
    caches = [LayerCache(jnp.zeros(shape), jnp.zeros(shape)) for _ in blocks]
    for stop in range(4, 4 + NUM_TOKENS):
      piece = x[:, start:stop]
      for i, block in enumerate(blocks):
        piece, caches[i] = extend(block, piece, caches[i], start)
      outputs.append(model.backbone.norm(piece[:, -1]))
      start = stop
    return jnp.stack(outputs, axis=1)

  np.testing.assert_allclose(in_pieces(x), whole, atol=1e-5)


def test_sampling_with_a_cache_equals_recomputation(model):
  _, condition = inputs()
  keys, scale = jax.random.split(jax.random.key(3), 2), 2.0
  drawn = sample(Model.from_module(model), condition, keys, scale, NUM_FRAMES)

  whole = jax.jit(lambda codes: model(codes, with_null(condition), NUM_FRAMES))
  codes = jnp.zeros((2, NUM_TOKENS), jnp.int32)
  for place in range(NUM_TOKENS):
    cond, null = jnp.split(whole(jnp.tile(codes, (2, 1)))[:, place], 2)
    for row in range(2):
      logits = null[row] + scale * (cond[row] - null[row])
      code = jax.random.categorical(jax.random.fold_in(keys[row], place), logits)
      codes = codes.at[row, place].set(code)
  np.testing.assert_array_equal(drawn, codes)
  assert len(np.unique(drawn)) > 3


def test_loss_is_the_cross_entropy_of_the_nearest_codes(model):
  latents, condition = inputs()
  loss, parts = QUANTIZED.loss(model, Batch(latents, condition), None)
  codes = nearest(tokens_of(latents, CFG), CODEBOOK)
  odds = np.asarray(jax.nn.softmax(model(codes, condition, NUM_FRAMES)))
  expected = -np.mean([np.log(odds[b, i, codes[b, i]]) for b in range(2) for i in range(NUM_TOKENS)])
  assert loss == parts["loss"] == pytest.approx(expected, rel=1e-5)


def test_flops_by_hand():
  # Three of text, one code before each of twelve: begin is seen by the text, too.
  area = 3 * 4 + sum(3 + i for i in range(1, 13))
  assert len(unstack(make(QUANTIZED).backbone.blocks)) == 2
  blocks = 2 * (24 * 32**2 * 15 + 4 * 32 * area)
  ends = 2 * 8 * 32 * 3 + 12 * 2 * 32 * 10
  assert QUANTIZED.forward_flops(3) == pytest.approx(blocks + ends + 12 * 2 * 16 * 10 / 3)
