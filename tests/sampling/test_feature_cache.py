"""Features that are reused between sets: exact when nothing is, close when something is, and fewer tokens computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make, slow
from models.test_nova import with_positions
from sampling.test_sampler import MODEL, run

from nova_jax.sampling import sampler
from nova_jax.sampling.feature_cache import Features, encode_set

encode = nnx.jit(encode_set, static_argnums=(3, 7, 8, 9))
encode_exactly = nnx.jit(lambda encoder, tokens, ids, *rest: encoder(tokens, ids, 5, *rest))


def setting(rotary):
  cfg = with_positions(rotary)
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.standard_normal((2, cfg.num_image_tokens, cfg.width), np.float32))
  cond = jnp.asarray(rng.standard_normal((2, cfg.num_video_tokens, cfg.width), np.float32))
  order = jnp.stack([jnp.asarray(rng.permutation(cfg.num_image_tokens)) for _ in range(2)])
  return cfg, make(cfg).image_encoder, tokens, cond, order


@pytest.mark.parametrize("rotary", [slow(False), True])
def test_refreshing_is_exact(rotary):
  cfg, encoder, tokens, cond, order = setting(rotary)
  wanted = order[:, 5:8]
  exact = encode_exactly(encoder, tokens, order[:, :7], cond, wanted)
  z, features = encode(encoder, tokens, order, 5, cond, wanted, Features.empty(cfg, 2), 7, 0, None)
  np.testing.assert_allclose(z, exact, atol=1e-5)
  # Nothing is new since then: every query finds the keys and values that it would compute.
  z, _ = encode(encoder, tokens, order, 5, cond, wanted, features, 7, 0, 2)
  np.testing.assert_allclose(z, exact, atol=1e-5)


@pytest.mark.parametrize("rotary", [slow(False), True])
def test_new_tokens_are_seen_and_padding_is_not(rotary):
  cfg, encoder, tokens, cond, order = setting(rotary)
  _, features = encode(encoder, tokens, order, 3, cond, order[:, 3:6], Features.empty(cfg, 2), 7, 0, None)

  def after(tokens, max_new=2, size=3):
    wanted = np.pad(order, ((0, 0), (0, 20)))[:, 5 : 5 + size]
    return encode(encoder, tokens, order, 5, cond, wanted, features, 7, 2, max_new)[0]

  z = after(tokens)
  changed = tokens.at[jnp.arange(2), order[:, 4]].add(1.0)  # Written since the refresh.
  assert np.abs(after(changed) - z).max() > 1e-3
  np.testing.assert_allclose(after(tokens, max_new=6), z, atol=1e-5)
  assert np.abs(after(tokens, size=cfg.num_image_tokens)[:, :3] - z).mean() < 0.1
  exact = encode_exactly(encoder, tokens, order[:, :7], cond, order[:, 5:8])
  assert 1e-5 < np.abs(z - exact).mean() < 0.5 * np.abs(exact - exact.mean()).mean()


@pytest.mark.slow
def test_a_generation_with_reuse_stays_near():
  exact, reuse = run(num_sets=6), {"refresh_every": 2}
  sampler.denoise_set.clear_cache()
  near = run(num_sets=6, settings=reuse)
  assert 0 < np.abs(near - exact).mean() < 0.3 * np.abs(exact).mean()
  assert sampler.denoise_set._cache_size() <= 8
  assert np.array_equal(run(num_sets=6, settings=reuse), near)


def test_fewer_operations():
  """Between refreshes a set costs a small part of a full pass."""
  cfg = MODEL.merge().cfg
  encoder, features = MODEL.merge().image_encoder, Features.empty(cfg, 2)
  tokens = jnp.zeros((2, cfg.num_image_tokens, cfg.width))
  cond, order = jnp.zeros((2, cfg.num_video_tokens, cfg.width)), jnp.zeros((2, cfg.num_image_tokens), int)

  def flops(max_new):
    call = lambda tokens: encode_set(encoder, tokens, order, 5, cond, order[:, :2], features, 8, 2, max_new)
    return jax.jit(call).lower(tokens).cost_analysis()["flops"]

  assert flops(2) < 0.4 * flops(None)
