"""Diffusion processes: a perfect prediction leads from noise to the sample, and what is refused."""

import jax
import numpy as np
import pytest

from nova_jax.config import SchedulerConfig
from nova_jax.diffusion import make_scheduler

CONFIGS = [
    SchedulerConfig(), SchedulerConfig(shift=3.0), SchedulerConfig("ddpm"),
    SchedulerConfig("ddpm", beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    SchedulerConfig("diffusers_ddpm", clip_sample=False, prediction_type="sample"),
    SchedulerConfig("diffusers_ddpm", clip_sample=False, rescale_betas_zero_snr=True, prediction_type="v_prediction")]


@pytest.mark.parametrize("cfg", CONFIGS, ids=str)
def test_the_training_target_is_what_the_sampler_needs(cfg):
  """One step from a noised sample with the training target as prediction: the last step returns the sample."""
  scheduler = make_scheduler(cfg)
  x, noise = np.random.default_rng(0).standard_normal((2, 1, 3, 4), np.float32)
  table = scheduler.steps(cfg.num_train_timesteps)
  last = jax.tree.map(lambda column: column[-1], table)
  times = np.asarray(scheduler.network_time(np.arange(cfg.num_train_timesteps)))
  index = np.full((1, 3), int(np.argmin(np.abs(times - last.time))))
  noised, target = scheduler.add_noise(x, noise, index), scheduler.target(x, noise, index)
  tolerance = 0.01 if cfg.shift == 3.0 else 1e-3  # The sampler's table is shifted once more than the training one.
  np.testing.assert_allclose(
      scheduler.step(last, noised, target, np.zeros_like(x), np.ones(3, bool)), x, atol=tolerance)


@pytest.mark.parametrize("cfg", CONFIGS, ids=str)
def test_training_times_are_in_range(cfg):
  indices = np.asarray(make_scheduler(cfg).sample_indices(jax.random.key(0), (20000,)))
  assert 0 <= indices.min() < 50 and 950 < indices.max() < 1000
  middle = ((indices > 250) & (indices < 750)).mean()
  assert middle == pytest.approx(0.728 if cfg.name == "flow_matching" else 0.5, abs=0.02)


@pytest.mark.parametrize("fields, message", [
    (dict(name="flow"), "flow_matching"), (dict(name="ddpm", variance_type="learned"), "variance_type"),
    (dict(name="ddpm", rescale_betas_zero_snr=True), "zero_snr"), (dict(shift=0.0), "scheduler.shift")])
def test_impossible_processes_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    make_scheduler(SchedulerConfig(**fields))
