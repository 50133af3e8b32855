"""From a folder to pixels, and what is refused on the way."""

import dataclasses
import inspect

import numpy as np
import pytest
from flax import nnx

from configs.digits import get_config
from nova_jax.checkpoints.model_card import ModelCard, read_card, write_card
from nova_jax.checkpoints.model_folder import load_autoencoder, load_text_encoder
from nova_jax.checkpoints.store import Checkpointer
from nova_jax.config import DEFAULT_FPS, PRESETS, Experiment, ModelConfig, SampleConfig, SchedulerConfig
from nova_jax.models.nova import NOVA
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.conditions import add_motion, make_conditions
from nova_jax.pipeline.request import SETTINGS, Request
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict

TINY = ModelConfig(
    latent_dim=1, latent_size=(8, 8), patch_size=2, width=32, num_heads=2, temporal_depth=1, spatial_depth=2,
    denoiser_depth=1, denoiser_width=16, base_frames=3, text_dim=8, text_len=4, mixer_rank=-1)
CARD = ModelCard(TINY, SchedulerConfig(), "words", "pixels", 3, SampleConfig(3, 2, 2.0))
CLASSES = dataclasses.replace(TINY, text_dim=None, num_classes=3, base_frames=1)


def fresh(card=CARD):
  parts = load_text_encoder(card.text_encoder, card.model), load_autoencoder(card.autoencoder)
  return Pipeline(card, NOVA(card.model, rngs=nnx.Rngs(0)), *parts)


@pytest.fixture(scope="module")
def pipe():
  return fresh()


def save(folder, card=CARD, cfg=TINY, seed=0, change=lambda weights: weights):
  """Write a model folder whose average, as `change` leaves it, differs from its last weights."""
  _, params, buffers = map(lambda x: x, nnx.split(NOVA(cfg, rngs=nnx.Rngs(seed)), nnx.Param, ...))
  params, buffers = nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)
  ema = nnx.to_pure_dict(nnx.split(NOVA(cfg, rngs=nnx.Rngs(seed + 1)), nnx.Param, ...)[1])
  checkpoints = Checkpointer(folder / "checkpoints", 1)
  checkpoints.save(7, {"params": params, "ema": change(ema), "buffers": buffers}, {}, {})
  checkpoints.close()
  write_card(folder, card)


def test_a_call_takes_what_a_request_declares():
  """The signature that editors show is that of `Request`, whose declarations document it."""
  taken = list(inspect.signature(Pipeline.__call__).parameters.values())[1:]
  fields = dataclasses.fields(Request)
  assert [(one.name, one.default, str(one.annotation)) for one in taken[:-1]] == [
      (field.name, field.default, str(field.type)) for field in fields]
  assert taken[-1].name == "on_set" and not any(one.kind is one.VAR_KEYWORD for one in taken)
  streamed = inspect.signature(Pipeline.stream).parameters
  assert [*streamed][1:] == [one.name for one in taken]
  text = " ".join(Pipeline.__call__.__doc__.split())
  assert all(f" {field.name}: {SETTINGS[field.name].help}" in text for field in fields)
  with pytest.raises(UserError, match="guidance_scal is not a setting; did you mean 'guidance_scale'"):
    Request.from_settings({"guidance_scal": 3.0})


def test_shapes_and_types(pipe):
  clip = pipe("the digit one", num_frames=2)
  assert clip.shape == (1, 2, 8, 8, 1) and clip.dtype == np.uint8
  assert pipe(["a", "b"]).shape == (2, 3, 8, 8, 1), "by default as long as the model was trained"
  latents = pipe("a", output="latent", num_frames=1)
  assert latents.shape == (1, 1, 8, 8, 1) and latents.dtype == np.float32


def test_each_clip_has_its_own_motion_and_rate(pipe):
  # A fresh denoiser ignores its condition, so look at what it is given.
  model = pipe.model.merge()
  condition, _ = make_conditions(Request(prompt=["one", "one"]), CARD, pipe.text_encoder)
  given = {name: np.array([1, 9], np.float32) for name in ("motion_flow", "fps")}
  tokens = np.asarray(model.embed_condition(condition._replace(**given)))
  assert np.array_equal(tokens[0, :4], tokens[1, :4]) and (tokens[0, 4:] != tokens[1, 4:]).any(-1).all()
  both = pipe(["one", "one"], motion_flow=[1, 9], fps=[12, 24], num_frames=1, output="latent")
  assert np.array_equal(both[:1], pipe("one", motion_flow=1, fps=12, num_frames=1, output="latent"))
  with pytest.raises(ValueError, match="motion_flow: expected one number, or one for each of 2 clips"):
    pipe(["one", "one"], motion_flow=[1, 2, 3])
  with pytest.raises(ValueError, match="fps: expected 0.01 to 1000"):
    pipe(["one", "one"], fps=[12, 0])


def test_a_model_that_knows_one_rate_is_told_that(pipe):
  card = dataclasses.replace(CARD, sample=SampleConfig(3, 2, 2.0, fps=4.0, told_fps=12.0))
  for settings in ({}, {"fps": 30.0}):
    request = Request(prompt="one", **settings)
    for condition in add_motion(make_conditions(request, card, pipe.text_encoder), request, card):
      assert condition.fps.tolist() == [12.0]
  digits = from_dict(Experiment, get_config())
  assert digits.train.stages[-1].num_frames / digits.sample.fps == 1, "a clip lasts a second"
  assert digits.sample.told_fps == DEFAULT_FPS, "what its training tells"


def test_a_loaded_folder_generates_the_same(tmp_path):
  save(tmp_path)
  averaged, last = Pipeline.load(tmp_path), Pipeline.load(tmp_path, weights="params", step=7)
  assert np.array_equal(last("one", output="latent"), fresh()("one", output="latent"))
  kernels = [p.model.merge().text_embed.proj.kernel[...] for p in (averaged, last)]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
  assert read_card(tmp_path) == CARD


def test_seeds_of_samples(pipe):
  both = pipe(["one", "one"], seed=[3, 4], output="latent")
  assert np.abs(both[0] - both[1]).max() > 1e-3
  np.testing.assert_allclose(pipe("one", seed=[4], output="latent")[0], both[1], atol=1e-5)


def test_text_embeds_stand_for_a_prompt(pipe):
  embeds, lengths = pipe.text_encoder.encode(["one two"])
  by_prompt = pipe("one two", output="latent")
  assert np.array_equal(pipe(text_embeds=[embeds[0, : lengths[0]]], output="latent"), by_prompt)


def test_an_empty_negative_prompt_is_the_default(pipe):
  by_default = pipe("one", output="latent")
  assert np.array_equal(pipe("one", negative_prompt="", output="latent"), by_default)


def test_progress_is_told(pipe):
  calls = []
  pipe("one", num_frames=2, on_set=lambda step: calls.append(step[:4]))
  assert calls == [(t, 2, i, 3) for t in range(2) for i in range(3)]


def test_classes():
  pipe = fresh(dataclasses.replace(CARD, model=CLASSES, num_frames=1))
  assert pipe(label=[0, 2]).shape == (2, 1, 8, 8, 1)
  for label, message in ((3, "expected 0 to 2"), (None, "made for classes")):
    with pytest.raises(ValueError, match=message):
      pipe(label=label)


@pytest.mark.parametrize("arguments, message", [
    ({"prompt": None}, "either prompt or text_embeds"), ({"prompt": []}, "at least one"),
    ({"prompt": "a b c d e"}, "at most 4"), ({"num_frames": 0}, "num_frames: expected at least 1"),
    ({"window": 9}, "sees 2 to 3 latent frames"), ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_diffusion_steps": 0}, "num_diffusion_steps"), ({"output": "video"}, "output"),
    ({"seed": [1, 2]}, "seed: expected one, or one for each of 1"), ({"flow_shift": -1.0}, "flow_shift"),
    ({"negative_prompt": ["a", "b"]}, "negative_prompt"), ({"label": 3}, "made for texts"),
    ({"prompt": 3}, "prompt: expected a text"), ({"num_frames": 2.5}, "num_frames: expected a whole number, got 2.5"),
    ({"num_frames": 10**12}, "num_frames: expected at most"), ({"seed": 1.5}, "seed: expected 0 to"),
    ({"later_inference_steps": 0}, "later_inference_steps: expected at least 1"), ({"fps": 0.001}, "fps: expected 0"),
    ({"guidance_scale": float("nan")}, "guidance_scale: expected a finite number"),
    ({"motion_flow": [float("inf")]}, "motion_flow: expected a finite number"),
    ({"guidance_renorm": "1"}, "guidance_renorm: expected a finite number"),
    ({"later_prompts": ["b"]}, "later_prompts: expected texts by frame"),
    ({"prompt": "\ud800"}, "prompt: .* is not valid Unicode"), ({"order": "abc"}, "order: expected 1 perm"),
    ({"temperature": [1.0]}, "temperature: expected one number"),
    ({"guidance_scale": np.ones(2)}, "guidance_scale: expected one number"),
    ({"prompt": None, "text_embeds": 5}, "text_embeds: expected an array for each prompt, got int"),
    ({"given": "x"}, "given: expected latents"), ({"given": [[1], [1, 2]]}, "given: expected latents")])
def test_bad_arguments_are_refused(pipe, arguments, message):
  with pytest.raises(UserError, match=message):
    pipe(**({"prompt": "one"} | arguments))


def test_embeddings_of_another_width_are_refused(pipe):
  with pytest.raises(ValueError, match="at most 4 rows of 8"):
    pipe(text_embeds=np.zeros((1, 4, 9)))


def test_folders_that_hold_no_model(tmp_path):
  with pytest.raises(ValueError, match="there is no folder"):
    Pipeline.load(tmp_path / "none")
  with pytest.raises(ValueError, match="no model folder"):
    Pipeline.load(tmp_path)
  write_card(tmp_path, CARD)
  with pytest.raises(ValueError, match="checkpoints"):
    Pipeline.load(tmp_path)
  for text, message in (("no json", "is not JSON"), ("[]", "expected a JSON object"), ('{"version": 2}', "expected")):
    (tmp_path / "nova.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
      read_card(tmp_path)
  write_card(tmp_path, CARD)
  text = (tmp_path / "nova.json").read_text(encoding="utf-8")
  (tmp_path / "nova.json").write_text(text.replace('"width"', '"widht"'), encoding="utf-8")
  with pytest.raises(ValueError, match="widht"):
    read_card(tmp_path)


def test_weights_that_do_not_fit_the_card_are_named(tmp_path):
  save(tmp_path, dataclasses.replace(CARD, model=dataclasses.replace(TINY, denoiser_width=24)))
  with pytest.raises(ValueError, match="image_decoder"):
    Pipeline.load(tmp_path)


def test_released_models_have_cards(tmp_path):
  for name, cfg in PRESETS.items():
    write_card(tmp_path / name, dataclasses.replace(CARD, model=cfg))
    assert read_card(tmp_path / name).model == cfg
