"""Requests resolved to jobs, and jobs that run: no model is needed to see what a request comes to."""

import dataclasses

import numpy as np
import pytest
from pipeline.test_generation import CLIP, fresh
from pipeline.test_pipeline import CARD

from nova_jax.pipeline.request import Request
from nova_jax.pipeline.resolve import Job, check, resolve
from nova_jax.pipeline.run import run
from nova_jax.sampling.set_schedule import FEW_GROUPS, MAX_GROUPS
from nova_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def pipe():
  return fresh()


def job_of(pipe, **settings) -> Job:
  return resolve(Request(prompt="one", **settings), pipe.parts)


def test_what_is_left_out_is_the_models_own(pipe):
  plan = job_of(pipe).plan
  assert (plan.num_frames, plan.num_sets, plan.guidance.scale, plan.window) == (3, (3, 3), 2, 3)
  stated = job_of(pipe, num_frames=3, num_inference_steps=3, num_diffusion_steps=2, guidance_scale=2.0, window=3).plan
  assert stated._replace(tables=()) == plan._replace(tables=())
  np.testing.assert_array_equal(stated.table.time, plan.table.time)


def test_a_model_has_a_temperature_of_its_own():
  pipe = fresh(dataclasses.replace(CARD, sample=dataclasses.replace(CARD.sample, temperature=0.5)))
  assert job_of(pipe).plan.temperatures == (0.5, 0.5) and job_of(pipe, temperature=1.0).plan.temperatures == (1, 1)
  assert job_of(pipe, last_temperature=0.1).plan.temperatures == (0.5, 0.1)


def test_diffusion_steps_fall_towards_those_of_the_last_sets(pipe):
  plan = job_of(pipe, num_diffusion_steps=7, last_set_diffusion_steps=1).plan
  assert [len(plan.table_at(each.phase).time) for each in plan.sets] == [7, 4, 1] and plan.table is plan.table_at(0)
  with pytest.raises(UserError, match="last_set_diffusion_steps: expected 1 to num_diffusion_steps, 7, .*got 8"):
    job_of(pipe, num_diffusion_steps=7, last_set_diffusion_steps=8)


def test_what_is_reused_has_fewer_programs(pipe):
  exact, reused = (job_of(pipe, refresh_every=every).plan.max_groups for every in (1, 2))
  assert (exact, reused) == (MAX_GROUPS, FEW_GROUPS) and exact > reused
  assert job_of(pipe, guidance_every=2).plan.max_groups == FEW_GROUPS


def test_sinks_leave_room_for_the_last_frame(pipe, monkeypatch):
  told = []
  monkeypatch.setattr("nova_jax.pipeline.resolve.tell", told.append)
  assert job_of(pipe, num_frames=9, window=3, sink_frames=1).plan.num_sinks == 1
  assert len(told) == 1 and "a gap in what they see" in told[0]
  job_of(pipe, num_frames=3, window=3, sink_frames=1)  # No frame leaves the window.
  assert len(told) == 1
  with pytest.raises(UserError, match="sink_frames: a window of 3 frames has room for 1 of them"):
    job_of(pipe, num_frames=9, window=3, sink_frames=2)


def test_shapes_of_what_is_given(pipe):
  job = job_of(pipe, image=list(CLIP), num_samples=2, num_frames=2)
  assert job.inputs.prefix_latents.shape == (6, 1, 8, 8, 1) and len(job.inputs.keys) == 6
  assert job.inputs.conditions.conditional.text_lengths.tolist() == [1] * 6 and job.num_frames == 2
  job = job_of(pipe, video=CLIP, mask=(0, 0, 8, 3))
  assert job.inputs.known_tokens.mask.shape == (3, 16) and job.inputs.prefix_latents is None
  assert job.plan.num_frames == job.num_frames == 3, "an edit is as long as its clip"
  assert job.givens.kept_mask.shape == (3, 8, 8) and not job.givens.kept_mask[:, :, :3].any()
  longer = job_of(pipe, video=CLIP, mask=(0, 0, 8, 3), num_frames=5).inputs.known_tokens
  assert longer.mask.shape == (5, 16) and longer.latents.shape[:2] == (1, 5) and not longer.mask[3:].any()
  assert np.array_equal(longer.mask[:3], job.inputs.known_tokens.mask), "frames after the clip are generated freely"


def test_clips_are_shown_at_the_rate_asked_for_or_the_models_own(pipe):
  assert job_of(pipe, num_samples=2).fps == (CARD.sample.fps,) * 2 and job_of(pipe, fps=5).fps == (5,)


def test_prompts_that_take_over(pipe):
  job = job_of(pipe, later_prompts={4: "two"}, num_frames=6)
  assert list(job.inputs.changes) == [4] and job.plan.window == 3
  later, null = job.inputs.changes[4]
  first, _ = job.inputs.conditions
  assert not np.array_equal(later.text_embeds, first.text_embeds)
  assert np.array_equal(later.text_embeds, null.text_embeds) and null.text_lengths.tolist() == [0]


def test_a_job_runs_again_to_the_same(pipe):
  job = job_of(pipe, seed=3, num_frames=2)
  first, again = (np.concatenate(list(run(job, pipe.model, pipe.autoencoder)), axis=1) for _ in range(2))
  assert np.array_equal(first, again) and np.array_equal(first, pipe("one", seed=3, num_frames=2))


def test_everything_is_refused_before_it_runs(pipe, monkeypatch):
  monkeypatch.setattr("nova_jax.pipeline.run.generate", None)
  monkeypatch.setattr("nova_jax.sampling.sampler.denoise_set", None)
  for settings, message in (
      ({"seed": [1, 2]}, "seed: expected one, or one for each of 1"), ({"order": [[0]]}, "order: expected 1 perm"),
      ({"noise": np.zeros((1, 1, 1, 8, 8, 1))}, "noise: expected start"), ({"motion_flow": [1, 2]}, "motion_flow"),
      ({"given": np.zeros((1, 4, 8, 8, 1))}, "given: expected 1 clips of at most 3"),
      ({"given": np.full((1, 1, 8, 8, 1), np.nan)}, "given: expected finite latents"),
      ({"noise": np.full((3, 3, 1, 8, 8, 1), np.nan)}, "noise: expected finite numbers"),
      ({"later_prompts": {1: ["a", "b"]}}, "later_prompts: expected one prompt or as many"),
      ({"later_prompts": {1: "a b c d e"}}, "has 5 tokens")):
    with pytest.raises(UserError, match=message):
      job_of(pipe, **settings)
  with pytest.raises(UserError, match="seed: expected 0 to 4294967295"):
    check(Request(prompt="one", seed=2**32), pipe.parts)
