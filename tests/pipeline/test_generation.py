"""The tasks beside text to video, through the pipeline: what is kept, what comes when, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import make, slow
from pipeline.test_pipeline import CARD
from pipeline.test_pipeline import fresh as blank

from nova_jax import media
from nova_jax.config import MeshConfig
from nova_jax.parallel.sharding import make_mesh, state_shardings
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.request import Request
from nova_jax.pipeline.resolve import resolve
from nova_jax.sampling.frame_context import Model

RNG = np.random.default_rng(0)
CLIP = RNG.integers(0, 256, (3, 8, 8, 1), np.uint8)


def fresh(card=CARD):
  """Make a pipeline whose model has no zeros, so that everything given matters."""
  pipe = blank(card)
  pipe.model = Model.from_module(make(card.model))
  return pipe


@pytest.fixture(scope="module")
def pipe():
  return fresh()


def near(clip, pixels):
  """Whether pixels came through the autoencoder, which may lose a step of 255."""
  return np.abs(clip.astype(int) - pixels).max() <= 1


def test_pictures_of_any_size_start_a_clip(pipe):
  large = CLIP[0].repeat(5, axis=0).repeat(5, axis=1)
  clips = pipe(["one", "two"], image=large, num_frames=2)
  assert clips.shape == (2, 2, 8, 8, 1) and near(clips[:, 0], CLIP[0]), "one picture, two prompts"
  clips = pipe("one", image=list(CLIP), num_frames=2)
  assert near(clips[:, 0], CLIP), "three pictures, one prompt"
  with pytest.raises(ValueError, match="got 2 and 3"):
    pipe(["one", "two"], image=list(CLIP))


def test_the_end_of_a_clip_is_continued(pipe):
  clips = pipe("one", video=CLIP, num_frames=5)
  assert clips.shape[1] == 5 and near(clips[0, :2], CLIP[1:]), "as many frames as fit the model, less one"
  assert near(pipe("one", video=CLIP, context_frames=1, num_frames=3)[0, 0], CLIP[2])
  for settings in ({"video": CLIP, "num_frames": 2}, {"image": CLIP[0], "num_frames": 1}):
    with pytest.raises(ValueError, match="num_frames: given frames count, too"):
      pipe("one", **settings)


def test_an_edit_takes_a_clip_from_its_beginning_and_the_rate_is_told(pipe, tmp_path):
  long = RNG.integers(0, 256, (7, 8, 8, 1), np.uint8)
  edited = pipe("one", video=long, mask=(0, 0, 4, 8), num_frames=2)[0]
  assert len(edited) == 2 and np.array_equal(edited[:, 4:], long[:2, 4:])
  media.write_webp(tmp_path / "a.webp", long, 10)
  videos = [str(tmp_path / "a.webp"), long]
  settings = {"video": videos, "mask": (0, 0, 4, 8), "num_frames": 2, "num_samples": 2}
  edited = pipe(["one", "two"], **settings)
  assert all(np.array_equal(clip[:, 4:], long[:2, 4:]) for clip in edited)
  assert edited.fps is None, "they differ in it"
  job = resolve(Request(prompt=["one", "two"], **settings), pipe.parts)
  assert job.inputs.conditions.conditional.fps.tolist() == list(job.fps) == [10, 10, 12, 12]
  job = resolve(Request(prompt="one", video=videos[0], fps=30.0, num_frames=3), pipe.parts)
  assert job.inputs.conditions.conditional.fps.tolist() == list(job.fps) == [30]


@pytest.mark.parametrize("settings, message", [
    ({"given": [1, 2]}, "given: expected 2 clips"), ({"noise": [1]}, "noise: expected start"),
    ({"image": CLIP[0], "outpaint_box": 4}, "outpaint_box: expected TOP"),
    ({"image": CLIP[0], "mask": [0.5] * 4}, "mask: expected TOP"),
    ({"image": np.zeros((0, 8, 3), np.uint8)}, "image: expected a file"),
    ({"prompt": None, "text_embeds": [[1.0]]}, "text_embeds: expected at most 4 rows of 8")])
def test_what_is_no_array_of_the_right_shape(pipe, settings, message):
  with pytest.raises(ValueError, match=message):
    pipe(**({"prompt": "one"} | settings))


def test_long_clips_slide_and_prompts_take_over(pipe):
  clip = pipe("one", num_frames=6)
  assert clip.shape[1] == 6
  changed = pipe("one", later_prompts={4: "two"}, num_frames=6)
  assert np.array_equal(changed[:, :4], clip[:, :4]) and not np.array_equal(changed[:, 4], clip[:, 4])
  with pytest.raises(ValueError, match="from 1 to 5, within the clip of 6, got 6"):
    pipe("one", later_prompts={6: "two"}, num_frames=6)


@pytest.mark.parametrize("settings, unknown", [
    ({"image": CLIP[0], "mask": (0, 0, 8, 3)}, np.s_[:, :, :3]),
    ({"video": CLIP, "mask": (1, 0, 5, 8)}, np.s_[:, 1:5]),
    ({"image": CLIP[0, 2:6, 2:6], "outpaint_box": (2, 2, 6, 6)}, None)])
def test_what_is_known_is_kept_to_the_bit(pipe, settings, unknown):
  clip = pipe("one", seed=3, **settings)[0]
  if unknown is None:
    assert np.array_equal(clip[0, 2:6, 2:6], settings["image"])
    return
  given = settings["image"][None] if "image" in settings else settings["video"]
  fixed = np.ones(clip.shape, bool)
  fixed[unknown] = False
  fixed[len(given):] = False
  assert clip.shape[0] == len(given) and np.array_equal(clip[fixed], given[fixed])
  assert (clip[~fixed] != 127).any() and not np.array_equal(clip[~fixed], given[~fixed])


def test_what_is_behind_a_mask_does_not_matter(pipe):
  other = CLIP.copy()
  other[:, :, :3] = 255 - other[:, :, :3]
  made = [pipe("one", video=clip, mask=(0, 0, 8, 3), output="latent") for clip in (CLIP, other)]
  assert np.array_equal(*made)


def test_frames_come_one_by_one_and_closing_ends_it(pipe):
  steps = []
  stream = pipe.stream("one", on_set=steps.append)
  assert not steps, "nothing is generated before it is asked for"
  first = next(stream)
  assert first.shape == (1, 1, 8, 8, 1) and {step.frame for step in steps} == {0}
  assert np.array_equal(steps[-1].preview(), first[:, 0]) and not np.array_equal(steps[0].preview(), first[:, 0])
  stream.close()
  assert not list(stream) and {step.frame for step in steps} == {0}
  assert np.array_equal(np.concatenate(list(pipe.stream("one")), axis=1), pipe("one"))


def test_samples_of_a_prompt_lie_together(pipe):
  clips = pipe(["one", "two"], num_samples=2, output="latent")
  alone = pipe("one", num_samples=2, output="latent")
  np.testing.assert_allclose(clips[:2], alone, atol=1e-5)
  assert np.abs(clips[0] - clips[1]).max() > 1e-3


def test_later_frames_may_have_fewer_sets(pipe):
  steps = []
  pipe("one", num_frames=2, num_inference_steps=4, later_inference_steps=2, on_set=lambda step: steps.append(step[:4]))
  assert [step[3] for step in steps] == [4] * 4 + [2] * 2


def test_history_noise_leaves_what_is_known(pipe):
  """Prompts that take over, edits and pictures work with it, and a picture alone doesn't change."""
  noisy = {"history_noise": 0.5, "num_frames": 5}
  clip = pipe("one", image=CLIP[0], later_prompts={2: "two"}, sink_frames=1, **noisy)
  assert near(clip[0, 0], CLIP[0]) and clip.shape[1] == 5
  edited = pipe("one", video=CLIP, mask=(0, 0, 8, 3), **noisy)
  assert np.array_equal(edited[0, :3, :, 3:], CLIP[:, :, 3:])
  assert np.array_equal(pipe("one", num_frames=1, history_noise=0.5), pipe("one", num_frames=1))


def test_presets_take_part_in_every_task(pipe):
  """Given frames, masks, prompts that take over and windows."""
  fast = {"preset": "faster", "num_inference_steps": 8, "later_inference_steps": 5}
  clip = pipe("one", image=CLIP[0], later_prompts={2: "two"}, num_frames=5, **fast)
  assert near(clip[0, 0], CLIP[0]) and clip.shape[1] == 5
  assert (clip != pipe("one", image=CLIP[0], later_prompts={2: "two"}, num_frames=5)).any()
  assert np.array_equal(pipe("one", video=CLIP, mask=(0, 0, 8, 3), **fast)[0, :3, :, 3:], CLIP[:, :, 3:])


def test_a_guide_takes_part_in_every_task():
  """Given frames, masks, prompts that take over and windows; what needs unconditional passes is refused."""
  pipe = fresh()
  plain = pipe("one", image=CLIP[0], later_prompts={2: "two"}, num_frames=5)
  pipe.guide = Model.from_module(make(dataclasses.replace(CARD.model, temporal_depth=2), seed=1))
  guided = pipe("one", image=CLIP[0], later_prompts={2: "two"}, num_frames=5)
  assert near(guided[0, 0], CLIP[0]) and np.abs(guided.astype(int) - plain).max() > 1
  assert np.array_equal(pipe("one", video=CLIP, mask=(0, 0, 8, 3))[0, :, :, 3:], CLIP[:, :, 3:])
  for settings in ({"negative_prompt": "two"}, {"image_guidance_scale": 2.0}, {"guidance_every": 2}):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: with a guide"):
      pipe("one", **settings)


@pytest.mark.parametrize("canvas, settings", [
    slow(False, {}), slow(True, {"history_noise": 0.5}),
    slow(False, {"preset": "faster", "num_inference_steps": 8, "later_inference_steps": 5})])
def test_samples_are_spread_over_devices(canvas, settings):
  card = dataclasses.replace(CARD, model=dataclasses.replace(CARD.model, canvas=canvas))
  alone, module = fresh(card), make(card.model)
  graph, state = nnx.split(module)
  state = jax.device_put(state, state_shardings(make_mesh(MeshConfig(data=8, fsdp=1)), state))
  spread = Pipeline(card, module, alone.text_encoder, alone.autoencoder)
  spread.model = Model(graph, state)
  if canvas:
    alone.guide = Model.from_module(make(CARD.model, seed=1))
    spread.guide = Model(alone.guide.graph, jax.device_put(
        alone.guide.state, state_shardings(make_mesh(MeshConfig(data=8, fsdp=1)), alone.guide.state)))
  arguments = {"prompt": ["one"] * 8, "num_frames": 2, "output": "latent"} | settings
  np.testing.assert_allclose(spread(**arguments), alone(**arguments), atol=1e-4)


@pytest.mark.parametrize("settings, message", [
    ({"mask": (0, 0, 4, 4)}, "give the image or the video"), ({"context_frames": 2}, "context_frames"),
    ({"image": CLIP[0], "video": CLIP}, "one of image, video and given"), ({"num_samples": 0}, "num_samples"),
    ({"solver": "ddim"}, "solver: this model"),
    ({"guidance_every": 3, "refresh_every": 2}, "guidance_every: expected a multiple of refresh_every, 2"),
    ({"guidance_start": 100.0, "guidance_trunc": 200}, "guidance_start: expected guidance_trunc, 200, or more"),
    ({"guidance_start": 1001}, "guidance_start: expected 0 to 1000"),
    ({"temperature": -1.0}, "temperature: expected 0"),
    ({"token_order": "spiral"}, "token_order: expected one of random"), ({"set_schedule": 3}, "set_schedule: expected"),
    ({"order": [[0]], "token_order": "halton"}, "order: it is"),
    ({"diffusion_grid": "fine"}, "diffusion_grid: expected one of publ"),
    ({"refresh_every": 0}, "refresh_every"), ({"image": CLIP[0], "outpaint_box": (0, 0, 8, 8)}, "the whole frame"),
    ({"image": []}, "at least one")])
def test_what_is_refused(pipe, settings, message):
  with pytest.raises(ValueError, match=message):
    pipe("one", **settings)


@pytest.mark.parametrize("settings", [slow({}), {"refresh_every": 2, "guidance_every": 2}], ids=str)
def test_a_canvas_matters_in_each_pass(settings):
  """What the canvas of any pass shows changes what is made; known pixels stay."""
  card = dataclasses.replace(CARD, model=dataclasses.replace(CARD.model, canvas=True))
  pipe, edit = fresh(card), {"video": CLIP, "mask": (0, 0, 8, 3), "num_frames": 4}
  settings = settings | {"guidance_scale": 3.0, "num_inference_steps": 4}
  clips = pipe("one", later_prompts={2: "two"}, output="latent", **settings)
  edited = pipe("one", **edit, **settings)
  assert np.array_equal(edited[0, :3, :, 3:], CLIP[:, :, 3:])
  kernel = pipe.model.state["canvas"]["head"]["kernel"]
  kernel[...] = 0 * kernel[...]
  assert np.abs(pipe("one", later_prompts={2: "two"}, output="latent", **settings) - clips).max() > 1e-3


def test_a_model_of_pictures_makes_no_clips():
  pictures = fresh(dataclasses.replace(CARD, model=dataclasses.replace(CARD.model, base_frames=1), num_frames=1))
  with pytest.raises(ValueError, match="single pictures, got 2"):
    pictures("one", num_frames=2)
  with pytest.raises(ValueError, match="it can't continue a clip"):
    pictures("one", video=CLIP)


@pytest.mark.parametrize("settings, message", [
    ({"num_samples": 10**6}, "at most 4,096 clips"), ({"num_frames": 10**6, "num_samples": 100}, "pixels; expec"),
    ({"prompt": "a" * 70_000}, "prompt: expected at most 65,536 bytes"), ({"fps": 1e9}, "fps: expected 0.01 to 1000"),
    ({"later_prompts": {1: "b" * 70_000}}, "later_prompts: expected at most"), ({"seed": 2**32}, "seed: expected 0 to"),
    ({"later_prompts": {10**9: "b"}}, "got 1000000000; num_frames makes"), ({"seed": True}, "seed: expected 0 to"),
    ({"image": CLIP[0], "outpaint_box": (0, 0, 8, 8)}, "outpaint_box: the box is the whole frame"),
    ({"guidance_trunc": 1001}, "guidance_trunc: expected 0 to 1000"), ({"label": 1}, "not for classes"),
    ({"video": CLIP, "mask": (0, 0, 9, 9)}, "mask: expected TOP"), ({"image": CLIP[0], "num_frames": 1}, "given fr")])
def test_what_is_refused_without_reading_anything(pipe, settings, message, monkeypatch):
  monkeypatch.setattr("nova_jax.media.readers.read_picture", None)
  monkeypatch.setattr("nova_jax.media.readers.read_clip", None)
  with pytest.raises(ValueError, match=message):
    rows = settings.pop("num_samples", 1)
    pipe.check(Request(**({"prompt": "one"} | settings)), rows)
  pipe.check(Request(prompt="one", image="not read", num_frames=2))
