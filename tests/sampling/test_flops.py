"""Operations of generation: by hand, as XLA counts them, and what each way to save some saves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nova_jax.config import PRESETS, ModelConfig, SchedulerConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.models.nova import NOVA
from nova_jax.sampling import sampler
from nova_jax.sampling.flops import denoise_flops, encode_flops, sample_flops, spatial_flops
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.plan import make_plan

SMALL = ModelConfig(
    latent_dim=2, latent_size=(16, 16), patch_size=2, width=64, num_heads=2, temporal_depth=1, spatial_depth=2,
    denoiser_depth=1, denoiser_width=64, text_dim=16, text_len=8, attention="dense")


def test_generation_costs_what_its_parts_cost():
  cfg = PRESETS["digits"]
  none = dict(num_steps=5, num_passes=1)
  # The cache saves what is known, so all frames together cost a training pass's temporal encoder.
  temporal = sample_flops(cfg, 1, 3, (), **none)
  d, tokens = cfg.width, cfg.num_condition_tokens + 3 * cfg.num_video_tokens
  frames = np.concatenate([np.zeros(cfg.num_condition_tokens, int), np.repeat(np.arange(3), cfg.num_video_tokens)])
  pairs = int((frames[:, None] >= frames[None]).sum())
  embeddings = temporal - cfg.temporal_depth * (24 * d**2 * tokens + 4 * d * pairs)
  assert 0 < embeddings < 0.2 * temporal
  # Twice the passes or the samples cost twice; a set's cost grows with the steps by its tokens, and one time a step.
  sets, one_set = ((0, 6), (6, 10)), ((0, 16),)
  once = sample_flops(cfg, 1, 3, sets, **none)
  time = 2 * cfg.denoiser_width * (256 + cfg.denoiser_width)
  times = 3 * len(sets) * 5 * time
  assert sample_flops(cfg, 4, 3, sets, num_steps=5, num_passes=2) - times == 8 * (once - times)
  step, one = (sample_flops(cfg, 1, 3, each, num_steps=6, num_passes=1) - sample_flops(cfg, 1, 3, each, **none)
               for each in (sets, one_set))
  assert step - one == 3 * time


def test_generation_is_close_to_what_xla_counts():
  # A block in each loop, of which XLA counts the body once.
  cfg = dataclasses.replace(SMALL, latent_size=(32, 32))
  scheduler, guidance, (known, size) = make_scheduler(SchedulerConfig()), Guidance(3.0), (100, 30)
  model = nnx.eval_shape(lambda: sampler.Model.from_module(NOVA(cfg, rngs=nnx.Rngs(0))))
  array = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
  patches = array(1, cfg.num_image_tokens, cfg.patch_dim)
  state = sampler.SetState(
      patches, array(2, cfg.num_video_tokens, cfg.width), array(1, cfg.num_image_tokens, dtype=jnp.int32), known, size,
      patches, None, scheduler.steps(1, None), guidance.strength(0, 1))
  program = sampler.denoise_set.lower(model, state, shape=sampler.SetShape(scheduler, 2, 0, 1, known, size))
  formula = sample_flops(cfg, 1, 1, ((known, size),), 1, 2) - sample_flops(cfg, 1, 1, (), 1, 2)
  counted = program.compile().cost_analysis()["flops"]
  assert formula == pytest.approx(counted, rel=0.15) and formula < counted


def plan_of(scale=3.0, **settings):
  guidance = {name: settings.pop(name) for name in ("truncation", "start") if name in settings}
  return make_plan(PRESETS["digits"], make_scheduler(SchedulerConfig()), num_frames=2, num_sets=8, num_steps=10,
                   guidance=Guidance(scale, **guidance), **settings)


def test_the_spatial_stage_of_a_plan_is_that_of_a_generation():
  plan, cfg = plan_of(), PRESETS["digits"]
  sets = [(each.start, each.size) for each in plan.sets]
  expected = sample_flops(cfg, 1, 2, sets, 10, 2) - sample_flops(cfg, 1, 2, (), 10, 2)
  assert spatial_flops(plan).total == pytest.approx(expected, rel=1e-12)
  assert spatial_flops(plan, num_given=1).total == pytest.approx(expected / 2, rel=1e-12)


def test_what_ways_to_save_operations_save():
  exact = spatial_flops(plan_of())
  reused = spatial_flops(plan_of(refresh_every=8))
  assert reused.denoiser == exact.denoiser and reused.encoder < 0.5 * exact.encoder
  conditional = spatial_flops(plan_of(scale=1.0))
  cheap = spatial_flops(plan_of(guidance_every=8))
  assert conditional.encoder < cheap.encoder < 0.7 * exact.encoder
  assert spatial_flops(plan_of(guidance_every=1, refresh_every=1)) == exact
  # Ten steps with two passes, or five with two and five with one.
  half = spatial_flops(plan_of(truncation=500.0))
  steps = sum(size.size for size in plan_of().sets) * 2
  assert half.encoder == exact.encoder
  assert exact.denoiser - half.denoiser == pytest.approx(
      2 * (denoise_flops(PRESETS["digits"], steps // 2, 10, 2) - denoise_flops(PRESETS["digits"], steps // 2, 5, 2)
           - denoise_flops(PRESETS["digits"], steps // 2, 5, 1)), rel=0.01)
  assert spatial_flops(plan_of(last_set_steps=1)).denoiser < 0.6 * exact.denoiser


def test_reused_features_by_hand():
  cfg = ModelConfig(
      latent_dim=1, latent_size=(8, 8), patch_size=2, width=32, num_heads=2, temporal_depth=1, spatial_depth=4,
      denoiser_depth=1, denoiser_width=16, num_classes=10)
  # 4 video and 16 image tokens of 4 values; 6 are known, of which 2 are new, and 3 are to be written.
  block = lambda tokens, keys: 24 * 32**2 * tokens + 4 * 32 * tokens * keys
  last = lambda tokens: 6 * 32**2 * tokens + 3 * (18 * 32**2 + 4 * 32 * 20)
  assert encode_flops(cfg, 6, 3) == 2 * block(10, 10) + block(20, 20) + last(20) + 2 * 32 * 4 * 16
  # Two heads of 16 values take a matrix unit of 128 rows as long as heads of 128.
  padded = 4 * (256 - 32) * (2 * 10 * 10 + 20 * 20 + 3 * 20)
  assert encode_flops(cfg, 6, 3, unit=128) - encode_flops(cfg, 6, 3) == padded
  assert encode_flops(cfg, 6, 3, 2) == 2 * block(2, 10) + block(5, 20) + last(5) + 2 * 32 * 4 * 16
