"""Guidance that is run in a part of the times and in a part of the sets, and noise by temperature."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make, slow
from models.test_nova import TINY
from sampling.test_sampler import DDPM, FLOW, MODEL, run

from nova_jax.models.nova import SpatialEncoder
from nova_jax.sampling import plan, sampler
from nova_jax.sampling.feature_cache import Features, encode_passes, kept_sizes
from nova_jax.sampling.frame_context import Model
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.set_schedule import FEW_GROUPS, token_sets

TIMES = np.array([1000, 800, 600, 400, 200], np.float32)


def test_the_interval_by_hand():
  assert Guidance(3.0).span(TIMES) == (0, 5) and Guidance(1.0, truncation=500.0).span(TIMES) == (0, 5)
  assert Guidance(3.0, start=600.0, truncation=400.0).span(TIMES) == (2, 2), "both ends are in it"
  assert Guidance(3.0, start=700.0, truncation=650.0).span(TIMES) == (2, 0)
  assert Guidance(3.0).span(TIMES * np.float32(1.0001)) == (0, 5)


def test_outside_the_interval_there_is_no_guidance():
  """Each diffusion step is guided or not, as the interval says; predictions come from a denoiser that counts passes."""
  passes, decoder = [], type(MODEL.merge().image_decoder)
  predict = decoder.predict_modulated
  settings = dict(batch=1, num_frames=1, num_sets=1, num_steps=5)
  sampler.denoise_set.clear_cache()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(decoder, "predict_modulated", lambda self, x, modulations, *rest: (
        passes.append(len(modulations[-1][0])) or predict(self, x, modulations, *rest)))
    some = run(guidance=Guidance(9.0, start=700.0, truncation=300.0), **settings)
  assert passes == [1, 2, 1], "traced once for each part"
  sampler.denoise_set.clear_cache()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sampler, "FEW_ROWS", 0)
    many = run(guidance=Guidance(9.0, start=700.0, truncation=300.0), **settings)
  np.testing.assert_allclose(many, some, atol=1e-4)
  sampler.denoise_set.clear_cache()
  assert np.abs(some - run(guidance=Guidance(9.0), **settings)).max() > 1e-3
  empty = run(guidance=Guidance(9.0, start=300.0, truncation=260.0), **settings)
  np.testing.assert_allclose(empty, run(guidance=Guidance(1.0), **settings), atol=1e-5)


def test_how_many_tokens_differences_are_kept_of():
  sets = token_sets(16, 4)  # 1, 4, 5 and 6 tokens, each a group.
  assert kept_sizes(sets, 3) == [10, None, None, 6] and kept_sizes(sets, 4) == [16, None, None, None]
  sets = token_sets(1024, 64, max_groups=FEW_GROUPS)
  sizes = kept_sizes(sets, 4)
  for i in range(0, len(sets), 4):
    assert sizes[i] >= sum(each.size for each in sets[i : i + 4]) and sizes[i] >= sets[i].max_size
  programs = {(s.max_visible, s.max_size, size) for s, size in zip(sets, sizes, strict=True)}
  assert len(programs) <= 2 * FEW_GROUPS, "two programs a group"


@pytest.mark.parametrize("refresh_every", [slow(1), 2])
def test_the_unconditional_pass_is_run_in_every_nth_set(monkeypatch, refresh_every):
  rows, call = [], SpatialEncoder.__call__
  traced = lambda self, tokens, *rest: rows.append(len(tokens)) or call(self, tokens, *rest)
  monkeypatch.setattr(SpatialEncoder, "__call__", traced)
  encode_set = sampler.encode_set
  monkeypatch.setattr(sampler, "encode_set", lambda encoder, tokens, *rest: rows.append(len(tokens)) or encode_set(
      encoder, tokens, *rest))
  sampler.denoise_set.clear_cache()
  settings = dict(num_frames=1, num_sets=4, settings={"guidance_every": 2, "refresh_every": refresh_every})
  assert np.isfinite(run(**settings)).all()
  # Two samples, four sets in a program each: both passes and the conditional one in turn.
  assert rows == ([4, 2, 4, 2] if refresh_every == 1 else [2, 2, 2, 2, 2, 2])
  assert sampler.denoise_set._cache_size() == 4
  sampler.denoise_set.clear_cache()


@pytest.mark.parametrize("guidance", [Guidance(3.0), slow(Guidance(3.0, image_scale=1.5))])
def test_kept_differences_change_nothing_in_sets_that_compute_them(guidance):
  """How near others stay depends on the weights: random ones promise nothing."""
  settings = dict(num_frames=2, guidance=guidance)
  one = dict(settings, num_sets=1)
  np.testing.assert_allclose(
      run(settings={"guidance_every": 4}, **one), run(**one), atol=1e-4)
  exact, near = run(num_sets=3, **settings), run(num_sets=3, settings={"guidance_every": 3}, **settings)
  change = np.abs(near - exact)[:, 0].reshape(2, 4, 2, 4, 2, -1).max((2, 4, 5))  # [sample, row, column] of frame 0.
  assert ((change < 1e-4).sum((1, 2)) == token_sets(16, 3)[0].size).all(), "the first set alone is exact"


@pytest.mark.parametrize("reused", [None, 0])
def test_kept_differences_by_hand(reused):
  """Encodings are drawn, and others for each set: [set, pass, sample, token, channel]."""
  rng, starts, sizes = np.random.default_rng(0), (0, 1, 3), (1, 2, 3)
  drawn = rng.standard_normal((3, 3, 2, 6, 4), np.float32)
  order = np.stack([rng.permutation(6), rng.permutation(6)])
  features = Features(reused, None, np.zeros((2, 2, 6, 4), np.float32))
  for i, (start, size, max_kept) in enumerate(zip(starts, sizes, (3, None, 5), strict=True)):  # The last one is padded.
    ids = order[:, start : start + size]

    def encode(first, last, ids, features, i=i):
      assert features is None or (first, last) == (0, 1), "features are of the conditional pass"
      rows = [np.take_along_axis(drawn[i, p], np.asarray(ids)[..., None], 1) for p in range(first, last)]
      return jnp.concatenate(rows), features

    z, features = encode_passes(encode, order, ids, start, features, max_kept)
    expected = drawn[i, :1] - (drawn[i // 2 * 2, :1] - drawn[i // 2 * 2])
    np.testing.assert_allclose(z, np.take_along_axis(expected, ids[None, ..., None], 2), atol=1e-5)


@pytest.mark.parametrize("scheduler", [FLOW, DDPM])
def test_temperature_is_a_factor_on_the_noise(monkeypatch, scheduler):
  told = []
  monkeypatch.setattr(sampler, "denoise_set", lambda model, state, features, shape: told.append(
      (state.start_noise, state.step_noise)) or (state.x, features))
  for settings in ({}, {"temperature": 0.8, "last_temperature": 0.4}):
    run(num_frames=3, num_sets=1, scheduler=scheduler, settings=settings)
  for (start, steps), (cold_start, cold_steps), factor in zip(told[:3], told[3:], (0.8, 0.6, 0.4), strict=True):
    np.testing.assert_allclose(cold_start, factor * start, rtol=1e-6)
    assert (steps is None) == (scheduler is FLOW)
    if steps is not None:
      np.testing.assert_allclose(cold_steps, factor * steps, rtol=1e-6)


def test_one_frame_has_the_first_temperature():
  what = plan.make_plan(
      TINY, FLOW, num_frames=1, num_sets=1, num_steps=1, guidance=Guidance(1.0), temperature=0.5, last_temperature=0.1)
  assert what.temperature(0) == 0.5
  assert plan.make_plan(TINY, FLOW, num_frames=9, num_sets=1, num_steps=1, guidance=Guidance(1.0)).temperature(8) == 1


OTHER = Model.from_module(make(dataclasses.replace(TINY, width=64, temporal_depth=1), seed=1))


@pytest.mark.parametrize("settings", [{}, pytest.param({"refresh_every": 2}, marks=pytest.mark.slow)], ids=str)
def test_a_model_that_guides_itself_changes_nothing(settings):
  one = dict(num_frames=2, num_sets=4, settings=settings)
  unguided = run(guidance=Guidance(1.0), **one)
  guided = run(guidance=Guidance(4.0), guide=MODEL, **one)
  if not settings:  # Else the model reuses features, the guide none.
    np.testing.assert_allclose(guided, unguided, atol=1e-4 * np.abs(unguided).max())
  assert np.abs(run(guidance=Guidance(4.0), guide=OTHER, **one) - guided).max() > 1e-2
  np.testing.assert_array_equal(run(guidance=Guidance(1.0), guide=OTHER, **one), unguided)


def test_guidance_by_another_model_by_hand():
  """In one step of one set the result is the guide's, and the scale times what the model's has more."""
  one = dict(num_frames=1, num_sets=1, num_steps=1)
  own, others = run(guidance=Guidance(1.0), **one), run(guidance=Guidance(1.0), model=OTHER, **one)
  guided = run(guidance=Guidance(3.0), guide=OTHER, **one)
  np.testing.assert_allclose(guided, others + 3 * (own - others), atol=1e-4 * np.abs(own).max())
