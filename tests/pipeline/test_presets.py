"""Presets: relative to the model, what is stated wins, and outputs carry what they stand for."""

import dataclasses

import numpy as np
import pytest
from pipeline.test_generation import fresh

from nova_jax.config import SampleConfig, SchedulerConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.pipeline.batch_sampling import complete
from nova_jax.pipeline.presets import EXACT, preset_settings, with_preset, without_preset
from nova_jax.pipeline.request import PRESETS, Request
from nova_jax.pipeline.resolve import plan_for
from nova_jax.sampling.flops import spatial_flops

SAMPLE, FLOW = SampleConfig(), make_scheduler(SchedulerConfig())
DDPM = make_scheduler(SchedulerConfig(name="ddpm"))


@pytest.fixture(scope="module")
def pipe():
  return fresh()


def with_fast(scheduler=FLOW, has_guide=False, **settings) -> Request:
  return with_preset(Request(preset="fast", **settings), SAMPLE, scheduler, has_guide)


def test_without_a_preset_and_with_that_of_exact_nothing_is_approximate(pipe):
  plans = [plan_for(Request(preset=preset), pipe.parts, None) for preset in (None, "exact")]
  assert plans[0]._replace(tables=()) == plans[1]._replace(tables=())
  assert (plans[0].refresh_every, plans[0].guidance_every) == (1, 1)


def test_presets_follow_the_model():
  steps = [preset_settings(name, SAMPLE, FLOW)["num_diffusion_steps"] for name in ("fast", "faster")]
  assert SAMPLE.num_diffusion_steps > steps[0] > steps[1]
  few = dataclasses.replace(SAMPLE, num_diffusion_steps=2)
  assert preset_settings("faster", few, FLOW)["num_diffusion_steps"] == 2, "no more than the model itself takes"
  assert (with_fast().solver, with_fast(DDPM).solver) == ("ab2", "dpmpp_2m")


def test_each_preset_takes_fewer_operations_than_the_one_before(pipe):
  card = dataclasses.replace(pipe.card, sample=dataclasses.replace(
      pipe.card.sample, num_inference_steps=16, num_diffusion_steps=20))
  parts = dataclasses.replace(pipe.parts, card=card)
  flops = [spatial_flops(plan_for(Request(preset=name), parts, None)).total for name in ("paper", *PRESETS[:3])]
  assert flops == sorted(flops, reverse=True) and len(set(flops)) == 4


def test_what_is_stated_wins():
  stated = with_fast(refresh_every=1, guidance_every=1, diffusion_grid="published", num_diffusion_steps=9)
  assert (stated.refresh_every, stated.guidance_every, stated.diffusion_grid, stated.num_diffusion_steps) == (
      1, 1, "published", 9)


def test_few_steps_that_are_stated_are_of_first_order():
  assert [with_fast(num_diffusion_steps=steps).solver for steps in (2, 3)] == ["euler", "ab2"]
  assert with_fast(DDPM, num_diffusion_steps=2).solver == "ddim"


def test_later_frames_get_a_part_of_the_sets_that_are_stated():
  assert with_fast().later_inference_steps == 32 and with_fast(num_inference_steps=12).later_inference_steps == 6
  assert with_fast(num_inference_steps=1).later_inference_steps == 1, "never more than the first frame has"


@pytest.mark.parametrize("refresh_every", [1, 2, 3, 5])
def test_guidance_is_kept_for_a_multiple_of_the_sets_that_features_are(refresh_every):
  assert with_fast(refresh_every=refresh_every).guidance_every % refresh_every == 0
  kept = with_fast(guidance_every=refresh_every)
  assert kept.guidance_every == refresh_every and (refresh_every == 1 or refresh_every % kept.refresh_every == 0)
  assert with_fast(guidance_every=3).refresh_every == 3 and with_fast(guidance_every=8).refresh_every == 4


def test_with_a_guide_there_are_no_unconditional_passes_to_leave_out():
  assert with_fast(has_guide=True).guidance_every == 1


def test_outputs_carry_what_a_preset_stands_for(pipe):
  made = complete(pipe, {"prompt": "one", "preset": "fast", "seed": 0})
  assert "preset" not in made and made["refresh_every"] > 1
  named = preset_settings("fast", pipe.card.sample, pipe.scheduler)
  assert made == complete(pipe, {"prompt": "one", "seed": 0, **named}) == complete(pipe, made)
  exact = complete(pipe, {"prompt": "one", "seed": 0})
  assert exact == complete(pipe, {"prompt": "one", "seed": 0, "preset": "exact"}) and not EXACT.keys() & exact.keys()


def test_manifests_of_benchmarks_say_what_a_preset_stands_for():
  assert without_preset({"num_frames": 4}, SAMPLE, FLOW) == {"num_frames": 4}
  stated = without_preset({"num_frames": 4, "preset": "fast", "refresh_every": 1}, SAMPLE, FLOW)
  assert (stated["num_frames"], stated["refresh_every"]) == (4, 1) and "preset" not in stated
  assert stated["num_diffusion_steps"] == with_fast().num_diffusion_steps


def test_a_preset_generates_what_its_settings_do(pipe):
  named = preset_settings("fast", pipe.card.sample, pipe.scheduler)
  ask = {"seed": 3, "num_inference_steps": 8, "later_inference_steps": 4}
  fast = pipe("one", preset="fast", **ask)
  np.testing.assert_array_equal(fast, pipe("one", **named | ask))
  assert (fast != pipe("one", **ask)).any(), "approximate"
