"""What counts in the loss; that it equals the published one is shown by `tests/parity`."""

import jax
import numpy as np
from flax import nnx
from helpers import make
from models.test_nova import TINY, inputs

from nova_jax.config import SchedulerConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.loss import forward, reduce_loss, sample_training_noise


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
