"""The sampler's promises: one randomness a sample, few compilations, given frames kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make, slow
from models.test_nova import TINY, with_positions
from models.test_nova import inputs as batch_of

from nova_jax.config import SchedulerConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.models.embeddings import patchify
from nova_jax.sampling import frame_context, plan, sampler
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.inputs import Conditions, Inputs, KnownTokens
from nova_jax.sampling.set_schedule import halton_order, set_sizes, still_first

FLOW = make_scheduler(SchedulerConfig())
DDPM = make_scheduler(SchedulerConfig(name="ddpm"))
MODEL = sampler.Model.from_module(make(TINY))


def test_weights_are_stored_as_they_are_used():
  module = make(dataclasses.replace(TINY, dtype="bfloat16"))
  stored, as_is = sampler.Model.from_module(module), sampler.Model(*nnx.split(module))
  size = lambda model: sum(leaf.nbytes for leaf in jax.tree.leaves(model.state))
  assert size(stored) < 0.6 * size(as_is)
  np.testing.assert_array_equal(run(1, 2, 2, 2, model=stored), run(1, 2, 2, 2, model=as_is))


def run(
    batch=2, num_frames=3, num_sets=2, num_steps=3, scheduler=FLOW, guidance=Guidance(3.0), seed=0, model=MODEL,
    settings=(), guide=None, neighbour=1, **kwargs):
  _, condition = batch_of(TINY, 1, 2)
  condition["text_embeds"][1:] *= neighbour
  condition = {name: np.asarray(value)[:batch] for name, value in condition.items()}
  null = condition | {"text_lengths": np.zeros(batch, int)}
  what = plan.make_plan(
      model.merge().cfg, scheduler, num_frames=num_frames, num_sets=num_sets, num_steps=num_steps, guidance=guidance,
      **dict(settings))
  keys = jax.random.split(jax.random.key(seed), 3)[::neighbour][:batch]
  inputs = Inputs(Conditions(condition, null), keys, **kwargs)
  return np.stack([np.asarray(x) for x in sampler.generate(model, what, inputs, guide=guide)], axis=1)


@pytest.mark.parametrize("scheduler", [FLOW, DDPM])
def test_a_sample_does_not_depend_on_its_neighbours(scheduler):
  """Another one changes no bit. Without one products are rounded in another order, which later frames amplify."""
  two, other = (run(2, scheduler=scheduler, neighbour=neighbour)[:1] for neighbour in (1, 2))
  np.testing.assert_array_equal(two, other)
  first, alone = two[:, :1], run(1, scheduler=scheduler, num_frames=1)
  np.testing.assert_allclose(first, alone, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize("rotary", [False, slow(True)])
def test_cached_generation_equals_recomputation(monkeypatch, rotary):
  """Generate once more with every frame's condition computed from all earlier frames, without the cache."""
  cfg, num_frames = with_positions(rotary), 3
  model = sampler.Model.from_module(make(cfg))
  _, condition = batch_of(cfg, 1)
  null = condition | {"text_lengths": np.zeros(2, int)}
  what = plan.make_plan(cfg, FLOW, num_frames=num_frames, num_sets=2, num_steps=3, guidance=Guidance(3.0))

  def run():
    keys = jax.random.split(jax.random.key(0), 2)
    frames = sampler.generate(model, what, Inputs(Conditions(condition, null), keys))
    return np.stack([np.asarray(frame) for frame in frames], axis=1)

  cached, history = run(), []

  def recompute(model, last, anchor, positions, cache, t, noise_level, *, num_passes):
    history.append(last)
    nova = model.merge()
    latents = np.zeros((2, num_frames, *cfg.latent_size, cfg.latent_dim), np.float32)
    latents[:, :t] = np.stack(history, axis=1)
    latents = jnp.asarray(latents)
    outputs = [nova.anchor(nova.temporal(latents, nova.embed_condition(c)))[:, t] for c in (condition, null)]
    return jnp.concatenate(outputs), cache

  monkeypatch.setattr(frame_context, "continue_video", recompute)
  np.testing.assert_allclose(run(), cached, atol=1e-4 * np.abs(cached).max())
  assert len(history) == num_frames - 1


def test_later_frames_see_earlier_ones_behind_noise():
  """What is given is kept as it is; frames after it change with the noise, and little with little of it."""
  latents = np.asarray(batch_of(TINY, 2)[0])
  clips = [run(num_frames=4, prefix_latents=latents, settings={"history_noise": level}) for level in (0, 1e-4, 0.5)]
  assert all(np.array_equal(clip[:, :2], latents) for clip in clips)
  assert 0 < np.abs(clips[1] - clips[0])[:, 2:].max() < 1e-2 < np.abs(clips[2] - clips[0])[:, 2].max()
  given = run(1, num_frames=4, prefix_latents=latents[:1], settings={"history_noise": 0.5})
  np.testing.assert_allclose(given, clips[2][:1], atol=1e-5 * np.abs(given).max(), err_msg="neighbours")


def test_a_model_is_told_the_noise_on_earlier_frames():
  told = sampler.Model.from_module(make(dataclasses.replace(TINY, told_noise=True)))
  frame_context.continue_video.clear_cache()
  clips = [run(num_frames=2, model=told, seed=3, settings={"history_noise": level}) for level in (1e-6, 0)]
  np.testing.assert_allclose(*clips, atol=1e-3)
  assert frame_context.continue_video._cache_size() == 1
  context, cfg = told.merge(), told.merge().cfg
  frames = np.asarray(batch_of(cfg, 1)[0])
  assert np.abs(context.embed_frames(frames, 0.3) - context.embed_frames(frames)).max() > 1e-2


def test_seeds_matter_and_repeat():
  assert np.array_equal(run(seed=1), run(seed=1))
  assert np.abs(run(seed=1) - run(seed=2)).max() > 0.1


def test_the_number_of_sets_and_the_scale_compile_nothing_new(monkeypatch):
  for function in (sampler.denoise_set, frame_context.begin_video, frame_context.continue_video, frame_context.prepare):
    function.clear_cache()
  run(num_sets=8)
  assert sampler.denoise_set._cache_size() == 1, "few tokens pad to one shape"
  sizes = [f._cache_size() for f in (frame_context.begin_video, frame_context.continue_video, frame_context.prepare)]
  assert sizes == [1, 1, 1]
  before = sampler.denoise_set._cache_size()
  run(num_sets=8, seed=5, guidance=Guidance(7.0, min_scale=2.0))
  assert sampler.denoise_set._cache_size() == before
  monkeypatch.setattr(sampler, "FEW_TOKENS", 0)
  run(num_sets=8)
  assert 2 < sampler.denoise_set._cache_size() - before <= 4


def test_a_loaded_model_writes_its_first_set_by_the_program_of_the_next():
  model = sampler.Model(MODEL.graph, jax.device_put(MODEL.state, jax.local_devices()[0]))
  sampler.denoise_set.clear_cache()
  run(num_frames=1, num_sets=2, model=model)
  assert sampler.denoise_set._cache_size() == 1


@pytest.fixture
def told(monkeypatch):
  """The state of each set as the compiled step, which a set of noise stands in for here, is told it."""
  states = []

  def denoise_set(model, state, features, *, shape):
    states.append(state)
    return state.x + state.start_noise, features

  monkeypatch.setattr(sampler, "denoise_set", denoise_set)
  return states


@pytest.mark.parametrize("scheduler", [FLOW, DDPM])
def test_diffusion_steps_get_fewer_from_set_to_set(told, scheduler):
  run(num_frames=1, num_sets=4, scheduler=scheduler, settings={"last_set_steps": 1})
  assert [len(state.table.time) for state in told] == [3, 2, 2, 1]
  if scheduler is DDPM:
    assert [len(state.step_noise) for state in told] == [3, 2, 2, 1]
  np.testing.assert_array_equal(told[1].table.time, scheduler.steps(2).time)


def test_later_frames_begin_with_what_stood_still(told):
  clip = run(num_frames=4, num_sets=2, settings={"later_order": "still_first"})
  orders = [np.asarray(state.order) for state in told[::2]]
  patches = [patchify(jnp.asarray(frame), TINY.patch_size) for frame in clip.swapaxes(0, 1)]
  assert np.array_equal(orders[0], orders[1]), "there are no two frames to compare yet"
  for t in (2, 3):
    assert np.array_equal(orders[t], still_first(orders[0], patches[t - 2], patches[t - 1]))
    assert not np.array_equal(orders[t], orders[0])


def test_given_frames_are_kept_and_all_of_them_condition():
  latents, _ = batch_of(TINY, 2)
  latents = np.asarray(latents)
  clip = run(prefix_latents=latents)
  assert np.array_equal(clip[:, :2], latents)
  changed = latents.copy()
  changed[:, 0] += 1  # Not the last given frame.
  assert np.abs(run(prefix_latents=changed)[:, 2] - clip[:, 2]).max() > 1e-3


def test_truncation_beyond_the_last_time_is_no_guidance():
  unguided = run(guidance=Guidance(1.0))
  np.testing.assert_allclose(run(guidance=Guidance(5.0, truncation=2000.0)), unguided, atol=1e-5)
  assert np.abs(run(guidance=Guidance(5.0)) - unguided).max() > 1e-2


@pytest.mark.parametrize("arguments, message", [
    ({"num_frames": 0}, "num_frames: expected at least 1"),
    ({"num_steps": 0}, "num_diffusion_steps: expected 1 to 1000"),
    ({"num_steps": 1001}, "num_diffusion_steps"), ({"num_sets": 0}, "num_inference_steps")])
def test_impossible_plans_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    run(**arguments)


@pytest.mark.parametrize("arguments, message", [
    ({"renorm": 1.5}, "guidance_renorm"), ({"image_scale": -1.0}, "image_guidance_scale"),
    ({"scale": 1.0, "image_scale": 2.0}, "needs guidance_scale")])
def test_impossible_guidance_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    Guidance(**arguments)


@pytest.mark.parametrize("scheduler, solver", [(FLOW, "ab2"), (DDPM, "dpmpp_2m")])
def test_a_solver_keeps_its_last_estimate_where_guidance_ends(scheduler, solver):
  """Guidance of both passes alike changes nothing, so that neither does the step at which it ends."""
  settings = {"solver": solver, "grid": "full"}
  _, condition = batch_of(TINY, 1, 2)
  what = plan.make_plan(
      TINY, scheduler, num_frames=1, num_sets=2, num_steps=4, guidance=Guidance(3.0, truncation=500.0), **settings)
  (ends,) = sampler.generate(
      MODEL, what, Inputs(Conditions(condition, condition), jax.random.split(jax.random.key(0), 2)))
  unguided = run(num_frames=1, num_sets=2, num_steps=4, scheduler=scheduler, guidance=Guidance(1.0), settings=settings)
  np.testing.assert_allclose(ends, unguided[:, 0], atol=3e-5 * np.abs(unguided).max())
  first = run(num_frames=1, num_sets=2, num_steps=4, scheduler=scheduler, guidance=Guidance(1.0))
  assert np.abs(first - unguided).max() > 1e-2


def test_solvers_of_another_process_are_refused():
  for scheduler, solver in ((FLOW, "ddim"), (DDPM, "ab2")):
    with pytest.raises(ValueError, match="solver: this model's diffusion process has (euler|ancestral), "):
      run(scheduler=scheduler, settings={"solver": solver})


def test_orders_and_schedules_of_frame_0_and_later_ones(told):
  """Each frame is told its own, and known tokens lead."""
  latents, _ = batch_of(TINY, 3)
  tokens = np.zeros((3, TINY.num_image_tokens), bool)
  tokens[2, 5] = True
  run(num_sets=4, known_tokens=KnownTokens(np.asarray(latents), tokens), settings={
      "order": "halton", "later_order": "checkerboard", "schedule": "constant", "later_schedule": "two_stage",
      "refresh_every": 2})
  rows, columns = TINY.image_grid
  first, later, edited = (np.asarray(told[i].order)[0] for i in (0, 4, -1))
  assert tuple(first) == halton_order(TINY.image_grid)
  assert (np.diff((later // columns + later % columns) % 2) >= 0).all()
  assert edited[0] == 5 and np.array_equal(edited[1:], later[later != 5])
  assert [state.size for state in told[:4]] == set_sizes(rows * columns, 4, "constant").tolist()
  assert told[-1].start + told[-1].size == rows * columns and told[-1].size == (rows * columns - 1) // 2
