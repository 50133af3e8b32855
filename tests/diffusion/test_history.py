"""The frames that later ones learn from: noise of a level of each clip's own."""

import dataclasses

import jax
import numpy as np
from helpers import make
from models.test_nova import TINY, inputs

from nova_jax.config import SchedulerConfig, TrainConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.batch import as_batch
from nova_jax.diffusion.history import make_history
from nova_jax.train.nova import NovaTask

FLOW = make_scheduler(SchedulerConfig())
KEYS = jax.random.split(jax.random.key(0), 2)


def batch(num_frames=3):
  latents, condition = inputs(TINY, num_frames)
  return as_batch(condition | {"latents": latents})


def test_each_clip_has_a_level_of_its_own():
  what = batch()
  history = make_history(what, KEYS, 0.7)
  assert history.noise_level.shape == (2,) and 0 < history.noise_level.min() < history.noise_level.max() < 0.7
  noise = np.asarray(history.latents - what.latents) / np.asarray(history.noise_level)[:, None, None, None, None]
  assert abs(noise.std() - 1) < 0.1 and np.abs(noise[0] - noise[1]).max() > 1
  alone = make_history(what._replace(latents=what.latents[1:]), KEYS[1:], 0.7)
  np.testing.assert_allclose(alone.latents[0], history.latents[1], atol=1e-6)
  assert make_history(what, KEYS, 0.0).latents is what.latents


def losses(told, noise=0.5, num_frames=3):
  """Return the losses of training and of held-out records, and that without noise."""
  cfg = dataclasses.replace(TINY, told_noise=told)
  task = NovaTask(cfg, FLOW, TrainConfig(loss_repeat=1), noise)
  clean = dataclasses.replace(task, history_noise=0.0)
  what = batch(num_frames)
  compute = jax.jit(lambda model: [
      function(model, what, KEYS, np.int32(4), 4)[1] for function in (task.loss, task.eval_loss, clean.loss)])
  return compute(make(cfg))


def test_noise_is_on_what_later_frames_see_alone():
  for told in (False, True):
    noisy, held_out, clean = losses(told)
    assert held_out == clean
    assert noisy["loss_t2i"] == clean["loss_t2i"], "the first frame sees none, and targets are clean"
    assert abs(noisy["loss_i2i"] - clean["loss_i2i"]) > 1e-5
  noisy, _, clean = losses(False, num_frames=1)
  assert noisy["loss"] == clean["loss"]
