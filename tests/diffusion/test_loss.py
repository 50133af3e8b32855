"""What counts in the loss; that it equals the published one is shown by `tests/parity`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make
from models.test_nova import TINY, inputs

from nova_jax.config import SchedulerConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.loss import forward, reduce_loss, sample_training_noise, training_loss
from nova_jax.models.embeddings import patchify


def test_errors_of_given_frames_do_not_count():
  scheduler, keys = make_scheduler(SchedulerConfig()), jax.random.split(jax.random.key(0), 2)
  latents, condition = inputs(TINY, 3)
  draws = sample_training_noise(keys, TINY, scheduler, 3, 2, 2)
  graph, state = nnx.split(make(TINY))
  run = jax.jit(lambda batch: forward(nnx.merge(graph, state), scheduler, batch, draws, 1))
  batch = {"latents": latents, **condition}
  plain, some = run(batch), run({**batch, "given": np.array([2, 0], np.int32)})
  expected = np.array(plain["error"])
  assert expected.min() > 0
  expected[0, :, :2] = 0
  np.testing.assert_allclose(some["error"], expected, rtol=1e-6)
  # Each clip weighs as before: a batch's loss is the mean of its micro-batches' losses.
  whole, parts = reduce_loss(some["error"], some["mask"])
  halves = [reduce_loss(some["error"][i : i + 1], some["mask"][i : i + 1])[0] for i in range(2)]
  np.testing.assert_allclose(whole, np.mean(halves), rtol=1e-5)
  assert parts["loss_t2i"] < reduce_loss(plain["error"], plain["mask"])[1]["loss_t2i"]


def test_tokens_that_are_surely_visible_need_no_denoiser():
  scheduler, keys = make_scheduler(SchedulerConfig()), jax.random.split(jax.random.key(0), 2)
  latents, condition = inputs(TINY, 2)
  graph, params, rest = nnx.split(make(TINY), nnx.Param, ...)
  batch = {"latents": latents, **condition, "given": np.array([1, 0], np.int32)}

  @functools.partial(jax.jit, static_argnums=0)
  def run(min_visible, num_visible):
    draws = sample_training_noise(keys, TINY, scheduler, 2, 6, 2, min_visible)

    def loss(params):
      outputs = forward(nnx.merge(graph, params, rest), scheduler, batch, draws, num_visible)
      return reduce_loss(outputs["error"], outputs["mask"])[0], outputs["mask"]

    return jax.value_and_grad(loss, has_aux=True)(params)

  ((loss, mask), grads), ((spared, few), spared_grads) = run(0, 6), run(5, 6)
  assert few.shape[2] == mask.shape[2] - 5 and few.sum() == mask.sum()
  np.testing.assert_allclose(spared, loss, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-7), spared_grads, grads)
  assert not np.isclose(run(5, 4)[0][0], run(0, 4)[0][0], rtol=1e-5), "a masked token that is left out is missed"


@pytest.mark.slow
def test_a_canvas_learns_the_frame_from_its_own_error_alone():
  cfg, scheduler = dataclasses.replace(TINY, canvas=True), make_scheduler(SchedulerConfig())
  latents, condition = inputs(cfg, 2)
  draws = sample_training_noise(jax.random.split(jax.random.key(0), 2), cfg, scheduler, 2, 4, 1)
  graph, params, rest = nnx.split(make(cfg), nnx.Param, ...)

  @jax.jit
  def losses(params, given):
    batch = condition | {"latents": latents, "given": given}
    part = lambda params, which: training_loss(nnx.merge(graph, params, rest), scheduler, batch, draws, 4)[1][which]
    return {which: jax.value_and_grad(part)(params, which) for which in ("loss", "loss_canvas")}

  found = losses(params, jnp.array([0, 0]))
  largest = lambda which, name: np.abs(found[which][1]["canvas"][name]["kernel"][...]).max()
  assert np.abs(found["loss"][1]["canvas"]["head"]["kernel"][...]).max() == 0
  assert np.abs(found["loss"][1]["canvas"]["patch_embed"]["proj"]["kernel"][...]).max() > 0, "the encoder reads it"
  assert largest("loss_canvas", "head") > 0
  model = nnx.merge(graph, params, rest)
  cond = model.anchor(model.temporal(latents, model.embed_condition(condition)))
  by_hand = np.stack([model.predict_canvas(cond[:, t]) - patchify(latents[:, t], 2) for t in range(2)], 1)
  np.testing.assert_allclose(found["loss_canvas"][0], np.square(by_hand).mean(), rtol=1e-5)
  given = losses(params, jnp.array([2, 0]))["loss_canvas"][0]
  np.testing.assert_allclose(given, np.square(by_hand[1]).mean() / 2, rtol=1e-5)
