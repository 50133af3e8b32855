"""Solvers: their formulas, written once more, and how their error falls with the steps on an ODE solved by hand.

The target is a normal distribution of mean 0.3 and standard deviation 0.5. All of its samples, noised to any time, keep
their distance from the mean in standard deviations, which is the noise that they began with.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nova_jax.config import SchedulerConfig
from nova_jax.diffusion import make_scheduler

MEAN, STD = 0.3, 0.5
START = np.linspace(-2, 2, 5, dtype=np.float32).reshape(1, 5, 1)
VALID = np.ones(5, bool)
FLOW = make_scheduler(SchedulerConfig())
DDPMS = [
    make_scheduler(SchedulerConfig("ddpm", timestep_spacing="trailing")),
    make_scheduler(SchedulerConfig("diffusers_ddpm", clip_sample=False)),
    make_scheduler(SchedulerConfig(
        "diffusers_ddpm", clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True))]


def predict(x, signal, sigma, kind):
  """Return what a perfect denoiser says of x = signal · sample + sigma · noise."""
  z = (x - signal * MEAN) / jnp.sqrt((signal * STD) ** 2 + sigma**2)
  noise = sigma * z / jnp.sqrt((signal * STD) ** 2 + sigma**2)
  sample = MEAN + signal * STD**2 * z / jnp.sqrt((signal * STD) ** 2 + sigma**2)
  return {"flow": noise - sample, "epsilon": noise, "v_prediction": signal * noise - sigma * sample}[kind]


def levels(scheduler, time):
  if scheduler is FLOW:
    return 1 - time / 1000, time / 1000
  alpha = jnp.asarray(scheduler.alphas_cumprod)[time.astype(int)]
  return jnp.sqrt(alpha), jnp.sqrt(1 - alpha)


def solve(scheduler, num_steps, solver, grid="full", shift=None):
  """Return samples, and those that the ODE ends at, as the sampler of `denoise_set` finds them."""
  table = scheduler.steps(num_steps, shift, solver, grid)
  kind = "flow" if scheduler is FLOW else scheduler.cfg.prediction_type
  signal, sigma = levels(scheduler, table.time[0])

  def step(carry, row):
    x, last = carry
    now = estimate = scheduler.estimate(row, x, predict(x, *levels(scheduler, row.time), kind), VALID)
    if table.change is not None:
      estimate = now + row.change * (now - last)
    return (scheduler.move(row, x, estimate, None), now), None

  first = signal * MEAN + jnp.sqrt((signal * STD) ** 2 + sigma**2) * START
  (x, _), _ = jax.lax.scan(step, (first, jnp.zeros_like(first)), table)
  return np.asarray(x), MEAN + STD * START


def error(*args, **kwargs):
  x, exact = solve(*args, **kwargs)
  return np.abs(x - exact).max()


@pytest.mark.parametrize("solver, order", [("euler", 1), ("ab2", 2)])
def test_order_of_flow_solvers(solver, order):
  errors = [error(FLOW, k, solver) for k in (10, 20, 40)]
  for coarse, fine in itertools.pairwise(errors):
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("scheduler, grid", [*((scheduler, "full") for scheduler in DDPMS), (DDPMS[1], "published")])
@pytest.mark.parametrize("solver, order", [("ddim", 1), ("dpmpp_2m", 2)])
def test_order_of_ddpm_solvers(scheduler, grid, solver, order):
  coarse, fine = (error(scheduler, k, solver, grid) for k in (100, 200))
  assert np.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_adams_bashforth_by_hand():
  table, x, last = FLOW.steps(6, 2.0, "ab2", "full"), START.astype(np.float64), None
  sigmas = np.append(np.asarray(table.time, np.float64) / 1000, 0)
  np.testing.assert_allclose(sigmas, [2 * s / (1 + s) for s in np.linspace(1, 0, 7)], atol=1e-6)
  for i in range(6):
    v, h = np.asarray(predict(x, 1 - sigmas[i], sigmas[i], "flow")), sigmas[i + 1] - sigmas[i]
    w = 0 if last is None else h / (sigmas[i] - sigmas[i - 1])
    x = x + h * ((1 + w / 2) * v - w / 2 * (v if last is None else last))
    last = v
  np.testing.assert_allclose(solve(FLOW, 6, "ab2", shift=2.0)[0], x, atol=1e-5)


@pytest.mark.parametrize("scheduler", DDPMS[:2], ids=["nova", "diffusers"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_ddpm_solvers_by_hand(scheduler, solver):
  """DDIM by its noise, DPM-Solver++(2M) by algorithm 2 of its paper, in terms of λ."""
  times, alphas = [999, 799, 599, 399, 199], np.asarray(scheduler.alphas_cumprod, np.float64)
  assert scheduler.steps(5, None, solver, "full").time.tolist() == times
  a = np.append(np.sqrt(alphas[times]), 1)
  s = np.append(np.sqrt(1 - alphas[times]), 0)
  with np.errstate(divide="ignore"):
    lam = np.log(a) - np.log(s)
  x, last = a[0] * MEAN + np.sqrt((a[0] * STD) ** 2 + s[0] ** 2) * START.astype(np.float64), None
  for i in range(5):
    noise = np.asarray(predict(x, a[i], s[i], "epsilon"))
    x0 = (x - s[i] * noise) / a[i]
    if solver == "ddim":
      x = a[i + 1] * x0 + s[i + 1] * noise
    else:
      h = lam[i + 1] - lam[i]
      r = np.inf if last is None or i == 4 else (lam[i] - lam[i - 1]) / h
      d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * (x0 if last is None else last)
      x, last = s[i + 1] / s[i] * x - a[i + 1] * np.expm1(-h) * d, x0
  np.testing.assert_allclose(solve(scheduler, 5, solver)[0], x, atol=1e-4)


def test_the_published_grid_wastes_its_last_evaluation():
  full, published = solve(FLOW, 9, "euler")[0], solve(FLOW, 10, "euler", "published")[0]
  np.testing.assert_allclose(full, published, atol=5e-4)
  assert np.abs(full - solve(FLOW, 10, "euler")[0]).max() > 5e-3
  assert error(FLOW, 1, "ab2") == error(FLOW, 1, "euler"), "the first step is Euler's"


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_full_grid_ends_without_noise(variance):
  for name in ("ddpm", "diffusers_ddpm"):
    cfg = SchedulerConfig(name, clip_sample=False, variance_type=variance, timestep_spacing="linspace")
    table = make_scheduler(cfg).steps(7, grid="full")
    assert table.std[-1] == 0 and (table.std[:-1] > 0).all() and table.mean_x0[-1] == pytest.approx(1)
    assert len(table.time) == 7 and table.time[0] == 999 and np.ptp(np.diff(table.time)) <= 1
    assert len(make_scheduler(cfg).steps(1000, grid="full").time) == 1000


def test_the_sample_that_is_extrapolated_is_thresholded():
  cfg = SchedulerConfig("diffusers_ddpm", thresholding=True)
  scheduler, x = make_scheduler(cfg), 50 * START
  row = jax.tree.map(lambda column: column[2], scheduler.steps(5, None, "dpmpp_2m", "full"))
  valid = np.arange(5) < 3
  estimate = np.asarray(scheduler.estimate(row, x, x, valid))
  assert np.abs(estimate[:, valid]).max() <= 1
  np.testing.assert_array_equal(estimate[:, :3], scheduler.estimate(row, x[:, :3], x[:, :3], valid[:3]))
