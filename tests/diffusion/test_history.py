"""The frames that later ones learn from: noise of a level of each clip's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make
from models.test_nova import TINY, inputs
from sampling.test_sampler import DDPM, FLOW, run
from train import toy_run

from nova_jax.autoencoders import make_autoencoder
from nova_jax.config import StageConfig, TrainConfig
from nova_jax.diffusion import history
from nova_jax.diffusion.batch import as_batch
from nova_jax.diffusion.history import make_history, roll_out
from nova_jax.models.embeddings import patchify
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.inputs import Noise
from nova_jax.sampling.plan import make_plan
from nova_jax.train.check import check as check_experiment
from nova_jax.train.masking import VisibleRange
from nova_jax.train.nova import NovaTask
from nova_jax.utils.errors import UserError

KEYS = jax.random.split(jax.random.key(0), 2)


def batch(num_frames=3):
  latents, condition = inputs(TINY, num_frames)
  return as_batch(condition | {"latents": latents})


def test_each_clip_has_a_level_of_its_own():
  what = batch()
  noisy = make_history(None, FLOW, what, KEYS, 0.7)
  assert noisy.noise_level.shape == (2,) and 0 < noisy.noise_level.min() < noisy.noise_level.max() < 0.7
  noise = np.asarray(noisy.latents - what.latents) / np.asarray(noisy.noise_level)[:, None, None, None, None]
  assert abs(noise.std() - 1) < 0.1 and np.abs(noise[0] - noise[1]).max() > 1
  alone = make_history(None, FLOW, what._replace(latents=what.latents[1:]), KEYS[1:], 0.7)
  np.testing.assert_allclose(alone.latents[0], noisy.latents[1], atol=1e-6)
  assert make_history(None, FLOW, what, KEYS, 0.0).latents is what.latents
  many = jax.tree.map(lambda x: np.repeat(x[:1], 64, axis=0), what)
  levels = np.asarray(make_history(None, FLOW, many, jax.random.split(jax.random.key(1), 64), 0.7).noise_level)
  assert 0 < levels.min() < 0.1 and 0.6 < levels.max() < 0.7 and abs(levels.mean() - 0.35) < 0.1


def losses(told=False, noise=0.5, num_frames=3, rollout_fraction=0.0):
  """Return the losses of training and of held-out records, and that without noise."""
  cfg = dataclasses.replace(TINY, told_noise=told)
  task = NovaTask(cfg, FLOW, TrainConfig(loss_repeat=1, rollout_fraction=rollout_fraction), history_noise=noise)
  clean = NovaTask(cfg, FLOW, TrainConfig(loss_repeat=1))
  what = batch(num_frames)
  compute = jax.jit(lambda model: [
      function(model, what, KEYS, np.int32(4), VisibleRange(0, 4))[1]
      for function in (task.loss, task.eval_loss, clean.loss)])
  return compute(make(cfg))


@pytest.mark.slow
def test_noise_is_on_what_later_frames_see_alone():
  for told in (False, True):
    noisy, held_out, clean = losses(told)
    assert held_out == clean
    assert noisy["loss_t2i"] == clean["loss_t2i"], "the first frame sees none, and targets are clean"
    assert abs(noisy["loss_i2i"] - clean["loss_i2i"]) > 1e-5
  noisy, _, clean = losses(False, num_frames=1)
  assert noisy["loss"] == clean["loss"]


@pytest.mark.slow
def test_rollouts_change_what_later_frames_see_alone():
  rolled, held_out, clean = losses(noise=0.0, rollout_fraction=1.0)
  assert held_out == clean and rolled["loss_t2i"] == clean["loss_t2i"]
  assert abs(rolled["loss_i2i"] - clean["loss_i2i"]) > 1e-5
  rolled, _, clean = losses(noise=0.0, rollout_fraction=1.0, num_frames=1)
  assert rolled == clean


def test_frames_of_the_models_own():
  """Real first and given frames stay, and a sample depends on itself alone."""
  model, what = make(TINY), batch()
  roll = jax.jit(
      lambda batch, keys, fraction: make_history(model, FLOW, batch, keys, 0.0, fraction).latents, static_argnums=2)
  own = np.asarray(roll(what, KEYS, 1.0))
  np.testing.assert_array_equal(own[:, 0], what.latents[:, 0])
  assert np.isfinite(own).all() and np.abs(own - what.latents)[:, 1:].reshape(4, -1).max(1).min() > 0.1
  given = np.asarray(roll(what._replace(given=np.array([0, 2])), KEYS, 1.0))
  np.testing.assert_array_equal(given[0, 0], what.latents[0, 0])
  np.testing.assert_array_equal(given[1, :2], what.latents[1, :2])
  np.testing.assert_allclose(given[1, 2], own[1, 2], atol=1e-5)
  some = [np.asarray(roll(what, jax.random.split(jax.random.key(seed), 2), 0.5))[:, 1:] for seed in range(8)]
  kept = np.array([(clips == what.latents[:, 1:]).all((1, 2, 3, 4)) for clips in some])
  assert 2 <= kept.sum() <= 14
  alone = roll(jax.tree.map(lambda x: x[1:], what), KEYS[1:], 1.0)
  np.testing.assert_allclose(alone[0], own[1], atol=1e-4)


@pytest.mark.parametrize("scheduler, solver", [(FLOW, None), (DDPM, "ddim")], ids=["flow", "ddpm"])
def test_they_are_what_the_sampler_makes_in_one_set(monkeypatch, scheduler, solver):
  what = batch()._replace(condition=batch(1).condition)  # That of `run`.
  noise = np.random.default_rng(0).standard_normal(what.latents.shape, np.float32)
  patches = patchify(jnp.asarray(noise), TINY.patch_size)
  model = make(TINY)
  monkeypatch.setattr(history.jax.random, "normal", lambda key, shape: patches[0])  # Of the first sample.
  own = jax.jit(lambda: roll_out(model, scheduler, jax.tree.map(lambda x: x[:1], what), KEYS[:1]))()
  monkeypatch.undo()
  made = run(
      1, 3, 1, 4, scheduler, Guidance(1.0), prefix_latents=np.asarray(what.latents[:1, :2]),
      noise=Noise(noise[None, None, :1, 2]), settings={"solver": solver, "grid": "full"})
  np.testing.assert_allclose(own[:, 2], made[:, 2], atol=1e-5 * np.abs(made).max())


def test_what_would_do_nothing_is_refused():
  stills = (StageConfig("image", 1.0, 8, 1),)
  blind = dataclasses.replace(TINY, history=False)
  with pytest.raises(UserError, match="model.told_noise: a model without history"):
    dataclasses.replace(blind, told_noise=True)
  with pytest.raises(UserError, match="history_noise: this model sees no earlier frames, so 0.5 would do nothing"):
    make_plan(blind, FLOW, num_frames=3, num_sets=2, num_steps=2, guidance=Guidance(1.0), history_noise=0.5)
  experiment = toy_run.make_experiment()
  check = lambda experiment: check_experiment(experiment, toy_run.one_device(), make_autoencoder("pixels"))
  for name, changed in (
      ("data.history_noise", {"data": dataclasses.replace(experiment.data, history_noise=0.5)}),
      ("train.rollout_fraction", {"train": dataclasses.replace(experiment.train, rollout_fraction=0.5)})):
    noisy = dataclasses.replace(experiment, **changed)
    check(noisy)
    without = (
        {"model": dataclasses.replace(noisy.model, history=False)},
        {"train": dataclasses.replace(noisy.train, stages=stills)})
    for fields in without:
      with pytest.raises(UserError, match=f"{name}: no frame of this run sees an earlier one"):
        check(dataclasses.replace(noisy, **fields))
