"""The transformer's own properties: causality, caching, static cost, presets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make, slow

from nova_jax.config import PRESETS, ModelConfig
from nova_jax.models.condition import Condition
from nova_jax.models.layers import take_apart, unstack
from nova_jax.models.nova import NOVA, count_parameters
from nova_jax.models.transformer import Block, Cache

TINY = ModelConfig(
    latent_dim=2, latent_size=(8, 8), patch_size=2, width=32, num_heads=2, temporal_depth=2, spatial_depth=3,
    denoiser_depth=2, denoiser_width=16, base_frames=3, text_dim=8, text_len=4, mixer_rank=4)


def with_positions(rotary: bool) -> ModelConfig:
  """Return the tiny model with absolute or rotary positions; the latter need heads of 32 channels."""
  return dataclasses.replace(TINY, rotary=True, num_heads=1) if rotary else TINY


def inputs(cfg: ModelConfig, num_frames: int, batch: int = 2):
  rng = np.random.default_rng(0)
  latents = rng.standard_normal((batch, num_frames, *cfg.latent_size, cfg.latent_dim), np.float32)
  condition = {
      "text_embeds": rng.standard_normal((batch, cfg.text_len, cfg.text_dim), np.float32),
      "text_lengths": np.array([2, 4][:batch])}
  return jnp.asarray(latents), condition


@nnx.jit
def temporal(model, latents, condition):
  return model.temporal(latents, model.embed_condition(condition))


@pytest.mark.parametrize("rotary", [False, True])
def test_output_of_a_frame_sees_earlier_frames_only(rotary):
  @nnx.jit
  def influences(model, latents, condition):
    outputs = lambda *args: jnp.square(model.anchor(model.temporal(*args))).sum((0, 2, 3))
    return jax.jacobian(outputs, argnums=(0, 1))(latents, model.embed_condition(condition))

  by_latents, by_cond = influences(make(with_positions(rotary)), *inputs(TINY, 4))
  influence = np.abs(by_latents).sum((1, 3, 4, 5))  # [output frame, latent frame]
  assert np.array_equal(influence > 0, np.tri(4, k=-1, dtype=bool))
  assert (np.abs(by_cond).sum((1, 3)) > 0).all(), "every frame must see the whole prefix"


def test_tokens_of_a_frame_see_each_other():
  @nnx.jit
  def by_latents(model, latents, condition):
    cond = model.embed_condition(condition)
    return jax.jacobian(lambda latents: jnp.square(model.temporal(latents, cond)[:, 1]).sum((0, 2)))(latents)

  influence = np.abs(by_latents(make(TINY), *inputs(TINY, 2))[:, :, 0]).sum((1, 4))  # [token, row, column]
  assert (influence > 0).all()


def test_the_denoiser_treats_each_token_alone():
  x = np.ones((1, 5, TINY.patch_dim), np.float32)
  z = np.random.default_rng(0).standard_normal((1, 5, TINY.width), np.float32)

  @nnx.jit
  def influences(decoder, *args):
    outputs = lambda x, z: jnp.square(decoder(x, jnp.full((1, 5), 300.0), decoder.condition(z))).sum((0, 2))
    return jax.jacobian(outputs, argnums=(0, 1))(*args)

  for influence in influences(make(TINY).image_decoder, x, z):
    assert np.array_equal(np.abs(influence).sum((1, 3)) > 0, np.eye(5, dtype=bool))


def test_modulations_of_many_diffusion_steps_at_once_are_those_of_each():
  rng = np.random.default_rng(0)
  x, z = (jnp.asarray(rng.standard_normal((2, 5, size), np.float32)) for size in (TINY.patch_dim, TINY.width))
  times = jnp.array([900.0, 500.0, 20.0])

  @nnx.jit
  def both(decoder):
    cond, blocks = decoder.condition(z), unstack(decoder.blocks)
    steps = decoder.modulate(cond + decoder.embed_time(times, cond.dtype)[:, None, None], blocks)
    one = lambda time: decoder(x, jnp.full((2, 5), time), cond)
    return decoder.predict_modulated(x, steps, blocks), jnp.stack([one(time) for time in times])

  at_once, each = both(make(TINY).image_decoder)
  np.testing.assert_allclose(at_once, each, atol=1e-5)
  assert np.abs(each[0] - each[1]).max() > 1e-3, "time matters"


def test_without_history_a_frame_knows_its_time_and_the_text_alone():
  model = make(dataclasses.replace(TINY, history=False))
  latents, condition = inputs(TINY, 3)
  outputs = temporal(model, latents, condition)
  np.testing.assert_array_equal(temporal(model, latents + 1, condition), outputs)
  assert np.abs(outputs[:, 1] - outputs[:, 2]).max() > 1e-3


def test_blocks_normalise_before_or_behind():
  x = jax.random.normal(jax.random.key(0), (2, 5, TINY.width))
  for norm in ("post", "pre"):
    block = Block(TINY.width, 2, "dense", norm, rngs=nnx.Rngs(0))
    block.norm1.scale[...], block.norm2.scale[...] = jnp.linspace(1, 2, TINY.width), jnp.linspace(2, 1, TINY.width)
    if norm == "pre":
      y = x + block.attn(block.norm1(x), None, None, None)
      y = y + block.mlp(block.norm2(y))
    else:
      y = x + block.norm1(block.attn(x, None, None, None))
      y = y + block.norm2(block.mlp(y))
    np.testing.assert_allclose(block(x, None, None, None), y, atol=1e-5)
    places = jnp.array([[0, 3], [4, 1]])
    np.testing.assert_allclose(block.run_at(x, None, places), jnp.take_along_axis(y, places[..., None], 1), atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, dict(rotary=True, num_heads=1), dict(norm="pre"), dict(history=False)], ids=str)
def test_cached_frames_equal_recomputation(changes):
  cfg = dataclasses.replace(TINY, **changes)
  model, num_frames = make(cfg), 4
  latents, condition = inputs(cfg, num_frames)

  @nnx.jit
  def both(model, latents, condition):
    cond, outputs = model.embed_condition(condition), []
    cache = Cache.empty(cfg, cfg.temporal_depth, 2, cond.shape[1] + num_frames * cfg.num_video_tokens)
    for t in range(num_frames):
      frame = model.begin(2) if t == 0 else model.embed_frames(latents[:, t - 1 : t])[:, 0]
      if not cfg.rotary:
        frame = frame + model.video_pos_embed(num_frames)[t]
      out, cache = model.video_encoder.extend(frame, cond if t == 0 else None, cache, t)
      outputs.append(out)
    return jnp.stack(outputs, 1), model.temporal(latents, cond)

  np.testing.assert_allclose(*both(model, latents, condition), atol=2e-5)


def test_padding_of_visible_tokens_changes_nothing():
  model = make(TINY)
  rng = np.random.default_rng(0)
  tokens = rng.standard_normal((2, TINY.num_image_tokens, TINY.width), np.float32)
  cond = rng.standard_normal((2, TINY.num_video_tokens, TINY.width), np.float32)
  ids = rng.permuted(np.tile(np.arange(TINY.num_image_tokens), (2, 1)), axis=1)
  encode = nnx.jit(lambda encoder, *args: encoder(*args))
  tight, padded = (encode(model.image_encoder, tokens, places, 5, cond) for places in (ids[:, :5], ids))
  np.testing.assert_allclose(tight, padded, atol=1e-5)


def loss_gradient(cfg):
  """Return the gradient of a loss as a jitted function, and its arguments."""
  latents, condition = inputs(TINY, 3)
  graph, params, rest = nnx.split(make(cfg), nnx.Param, ...)

  def loss(params, rest):
    model = nnx.merge(graph, params, rest)
    return jnp.square(model.temporal(latents, model.embed_condition(condition))).mean()

  return jax.jit(jax.grad(loss)), (params, rest)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_parts_and_their_gradients_are_those_of_unstack(axis):
  x = np.random.default_rng(0).standard_normal((3, 3, 3, 2)).astype(np.float32)
  weigh = lambda parts: sum(part * jnp.arange(18.0).reshape(3, 3, 2) ** i for i, part in enumerate(parts)).sum()
  ours, expected = (
      jax.jit(jax.value_and_grad(lambda x, take=take: weigh(take(x, axis=axis))))(x) for take in (
          take_apart, jnp.unstack))
  np.testing.assert_allclose(ours[0], expected[0], rtol=1e-6)
  np.testing.assert_array_equal(ours[1], expected[1])


@pytest.mark.parametrize("remat", ["dots", slow("mlp"), slow("block")])
def test_rematerialisation_changes_no_number(remat):
  (exact, args), (other, others) = loss_gradient(TINY), loss_gradient(dataclasses.replace(TINY, remat=remat))
  for a, b in zip(jax.tree.leaves(exact(*args)), jax.tree.leaves(other(*others)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_products_are_computed_again_with_the_mlp_and_whole_blocks():
  def products(remat):
    gradient, args = loss_gradient(dataclasses.replace(TINY, attention="mapped", remat=remat))
    return gradient.lower(*args).as_text().count("stablehlo.dot_general")

  # With "dots" the two products of attention are computed again, since heads are small.
  assert products("dots") == products("none") + 2
  assert products("mlp") == products("dots") + 1 < products("block")  # The hidden values, in the one loop over blocks.


def test_bfloat16_activations_with_float32_parameters():
  model = make(dataclasses.replace(TINY, dtype="bfloat16"))
  latents, condition = inputs(TINY, 2)
  out = temporal(model, latents, condition)
  assert out.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
  exact = make(TINY)
  np.testing.assert_allclose(out.astype(jnp.float32), temporal(exact, latents, condition), atol=0.15)


def test_the_program_does_not_grow_with_depth():
  latents, condition = inputs(TINY, 2)

  def size(depth):
    cfg = dataclasses.replace(TINY, temporal_depth=depth)
    graph, state = nnx.split(nnx.eval_shape(lambda: NOVA(cfg, rngs=nnx.Rngs(0))))

    def run(state):
      model = nnx.merge(graph, state)
      return model.temporal(latents, model.embed_condition(condition))

    return len(jax.jit(run).lower(state).as_text().splitlines())

  assert size(2) == size(12)


# The papers' and checkpoints' own words for these sizes: 0.3 B, 0.6 B and 1.4 B, cut after one digit.
@pytest.mark.parametrize("name, billions", [
    ("nova-d48w768-sdxl1024", 0.3), ("nova-d48w1024-sdxl1024", 0.6), ("nova-d48w1536-sdxl1024", 1.4),
    ("nova-d48w1024-sd512", 0.6), ("nova-d48w1024-osp480", 0.6), ("digits", 0.0),
    ("two_digits", 0.0)])
def test_presets_have_the_published_size(name, billions):
  assert int(count_parameters(PRESETS[name]) / 1e8) / 10 == billions


def test_every_preset_is_tested():
  assert len(PRESETS) == 7


def test_every_parameter_names_its_axes():
  for rotary in (False, True):
    state = nnx.state(nnx.eval_shape(lambda: NOVA(with_positions(rotary), rngs=nnx.Rngs(0))))
    for path, variable in nnx.to_flat_state(state):
      axes = variable.get_metadata()["out_sharding"]
      assert len(axes) == len(variable.shape), path
      assert (axes[0] == "layers") == any("blocks" in part for part in path), path


def test_a_condition_that_the_model_lacks_is_named():
  with pytest.raises(ValueError, match="takes text_lengths, and there are none"):
    assert Condition().num_samples
