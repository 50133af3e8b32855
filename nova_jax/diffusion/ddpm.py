"""DDPM (Ho et al. 2020) in two variants: NOVA's and that of the diffusers library.

  x_t = √ᾱ_t·x + √(1 − ᾱ_t)·noise
  x̂_0 = a·x_t + b·prediction                           (a, b depend on the prediction type)
  x_{t'} = c·x̂_0 + d·x_t + σ·noise                     (equations 6 and 7; noise only where t > 0)

NOVA's variant steps to t − 1000 // K and never clips x̂_0. The diffusers variant steps to the next time in its list and
clips by default. The full grid has K equally spaced times, which start at the last training time for every spacing. Its
last step ends at the sample itself.

DDIM (Song et al. 2020) has no noise: c = √ᾱ_{t'} − d·√ᾱ_t, d = √(1 − ᾱ_{t'}) / √(1 − ᾱ_t). DPM-Solver++(2M) (Lu et al.
2022) also extrapolates x̂_0: x̂_0 + h / 2h_last · (x̂_0 − x̂_0,last), h = λ_{t'} − λ_t, λ = log √ᾱ / √(1 − ᾱ). Its last
step, to λ = ∞, is of first order. With these solvers, and on the full grid, both variants step to the next time.
Tables are float32 whatever the model's dtype, since the noise below t = 21 would vanish in bf16.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nova_jax.config import SchedulerConfig
from nova_jax.utils.arrays import AnyArray
from nova_jax.utils.errors import UserError


class DDPMSteps(NamedTuple):
  """Time of each step, and the coefficients of the equations above."""

  time: Float[np.ndarray, "K"]
  x0_sample: Float[np.ndarray, "K"]
  x0_prediction: Float[np.ndarray, "K"]
  mean_x0: Float[np.ndarray, "K"]
  mean_sample: Float[np.ndarray, "K"]
  std: Float[np.ndarray, "K"]
  change: Float[np.ndarray, "K"] | None = None  # Extrapolation of x̂_0; see `Scheduler.steps`.


@dataclasses.dataclass(frozen=True)
class DDPM:
  """The process and its samplers. Use `make_ddpm` to create it."""

  cfg: SchedulerConfig
  like_diffusers: bool
  adds_noise: ClassVar[bool] = True
  solvers: ClassVar[tuple[str, ...]] = ("ancestral", "ddim", "dpmpp_2m")

  @property
  def num_train_timesteps(self) -> int:
    return self.cfg.num_train_timesteps

  @property
  def alphas_cumprod(self) -> Float[np.ndarray, "1000"]:
    """Fraction ᾱ of the signal's variance that is left at each time."""
    betas = make_betas(self.cfg)
    if self.cfg.rescale_betas_zero_snr:
      betas = zero_terminal_snr(betas)
    return np.cumprod((1 - betas).astype(np.float32), dtype=np.float64).astype(np.float32)

  def sample_indices(self, key: jax.Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Sample times uniformly."""
    return jax.random.randint(key, shape, 0, self.cfg.num_train_timesteps)

  def network_time(self, indices: Int[AnyArray, "..."]) -> Float[AnyArray, "..."]:
    return indices.astype(jnp.float32)

  def add_noise(
      self, x: Float[AnyArray, "... P"], noise: Float[AnyArray, "... P"], indices: Int[AnyArray, "..."],
  ) -> Float[AnyArray, "... P"]:
    signal, sigma = self._levels(indices)
    return signal * x + sigma * noise

  def target(
      self, x: Float[AnyArray, "... P"], noise: Float[AnyArray, "... P"], indices: Int[AnyArray, "..."],
  ) -> Float[AnyArray, "... P"]:
    if self.cfg.prediction_type == "epsilon":
      return noise
    if self.cfg.prediction_type == "sample":
      return x
    signal, sigma = self._levels(indices)
    return signal * noise - sigma * x

  def _levels(self, indices):
    alphas = jnp.asarray(self.alphas_cumprod)[indices][..., None]
    return jnp.sqrt(alphas), jnp.sqrt(1 - alphas)

  def timesteps(self, num_steps: int, grid: str = "published") -> Int[np.ndarray, "K"]:
    """Return the sampler's times in descending order."""
    total, spacing = self.cfg.num_train_timesteps, self.cfg.timestep_spacing
    if grid == "full":
      return (np.arange(num_steps, 0, -1) * total / num_steps).round().astype(np.int64) - 1
    if spacing == "linspace":
      return np.linspace(0, total - 1, num_steps).round()[::-1].astype(np.int64)
    if spacing == "leading":
      return (np.arange(num_steps) * (total // num_steps))[::-1] + self.cfg.steps_offset
    return np.arange(total, 0, -total / num_steps).round().astype(np.int64) - 1

  def steps(
      self, num_steps: int, shift: float | None = None, solver: str | None = None, grid: str = "published"
  ) -> DDPMSteps:
    """Return the sampler's table; DDPM has no `shift`."""
    if shift is not None:
      raise UserError(f"flow_shift: this model's sampler is DDPM, which has no shift (got {shift})")
    cfg, alphas_cumprod, solver = self.cfg, self.alphas_cumprod, solver or self.solvers[0]
    t, published = self.timesteps(num_steps, grid), (solver, grid) == ("ancestral", "published")
    to_next = self.like_diffusers or not published
    previous = np.append(t[1:], -1) if to_next else t - cfg.num_train_timesteps // num_steps
    alpha = alphas_cumprod[t]
    alpha_previous = np.where(previous >= 0, alphas_cumprod[np.maximum(previous, 0)], np.float32(1))
    beta, beta_previous = 1 - alpha, 1 - alpha_previous
    alpha_step = alpha / alpha_previous
    beta_step = 1 - alpha_step
    variance = beta_step if cfg.variance_type == "fixed_large" else np.maximum(beta_previous / beta * beta_step, 1e-20)
    one = np.ones_like(alpha)
    with np.errstate(divide="ignore"):  # Zero terminal SNR has no noise prediction at its first step; see `make_ddpm`.
      x0_sample, x0_prediction = {
          "epsilon": (1 / np.sqrt(alpha), -np.sqrt(beta) / np.sqrt(alpha)),
          "sample": (0 * one, one),
          "v_prediction": (np.sqrt(alpha), -np.sqrt(beta)),
      }[cfg.prediction_type]
    mean_x0, mean_sample = np.sqrt(alpha_previous) * beta_step / beta, np.sqrt(alpha_step) * beta_previous / beta
    std, change = np.where(t > 0 if published else previous >= 0, np.sqrt(variance), 0), None
    if solver != "ancestral":
      mean_sample, std = np.sqrt(beta_previous / beta), 0 * one
      mean_x0 = np.sqrt(alpha_previous) - mean_sample * np.sqrt(alpha)
    if solver == "dpmpp_2m":
      change = _changes(alpha, alpha_previous)
    columns = (column.astype(np.float32) for column in (t, x0_sample, x0_prediction, mean_x0, mean_sample, std))
    return DDPMSteps(*columns, change=None if change is None else change.astype(np.float32))

  def step(
      self, steps: DDPMSteps, x: Float[AnyArray, "B S P"], prediction: Float[AnyArray, "B S P"],
      noise: Float[AnyArray, "B S P"] | None, valid: Bool[AnyArray, "S"],
  ) -> Float[AnyArray, "B S P"]:
    return self.move(steps, x, self.estimate(steps, x, prediction, valid), noise)

  def estimate(
      self, steps: DDPMSteps, x: Float[AnyArray, "B S P"], prediction: Float[AnyArray, "B S P"],
      valid: Bool[AnyArray, "S"],
  ) -> Float[AnyArray, "B S P"]:
    """Return x̂_0, clipped or thresholded as configured."""
    x0 = steps.x0_sample * x + steps.x0_prediction * prediction
    if self.like_diffusers and self.cfg.thresholding:
      # Dynamic thresholding (Saharia et al. 2022) bounds each sample by one of its own quantiles.
      size = jnp.where(valid[:, None], jnp.abs(x0), jnp.nan)
      bound = jnp.nanquantile(size, self.cfg.dynamic_thresholding_ratio, axis=(1, 2), keepdims=True)
      bound = jnp.clip(bound, 1, self.cfg.sample_max_value)
      x0 = jnp.clip(x0, -bound, bound) / bound
    elif self.like_diffusers and self.cfg.clip_sample:
      x0 = jnp.clip(x0, -self.cfg.clip_sample_range, self.cfg.clip_sample_range)
    return x0

  def move(
      self, steps: DDPMSteps, x: Float[AnyArray, "B S P"], estimate: Float[AnyArray, "B S P"],
      noise: Float[AnyArray, "B S P"] | None,
  ) -> Float[AnyArray, "B S P"]:
    mean = steps.mean_x0 * estimate + steps.mean_sample * x
    return mean if noise is None else mean + steps.std * noise


def _changes(alpha: Float[np.ndarray, "K"], alpha_previous: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
  """Return h / 2h_last for each step; 0 for the first, for one that ends at λ = ∞ and for one that follows λ = −∞."""
  with np.errstate(divide="ignore", invalid="ignore"):
    log_snr = lambda alpha: 0.5 * (np.log(alpha.astype(np.float64)) - np.log1p(-alpha.astype(np.float64)))
    h = log_snr(alpha_previous) - log_snr(alpha)
    changes = np.append(0, h[1:] / (2 * h[:-1]))
  return np.where(np.isfinite(changes), changes, 0)


def make_ddpm(cfg: SchedulerConfig, like_diffusers: bool) -> DDPM:
  """Create a DDPM process, and check all settings that are names.

  Raises:
    UserError: a setting is unknown, or two of them exclude each other.
  """
  choices = {
      "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
      "prediction_type": ("epsilon", "sample", "v_prediction"),
      "variance_type": ("fixed_small", "fixed_small_log", "fixed_large"),
      "timestep_spacing": ("leading", "trailing", "linspace"),
  }
  for field, known in choices.items():
    if getattr(cfg, field) not in known:
      raise UserError(f"scheduler.{field}: expected one of {', '.join(known)}, got {getattr(cfg, field)!r}")
  if cfg.rescale_betas_zero_snr and cfg.prediction_type == "epsilon":
    raise UserError(
        "scheduler: with rescale_betas_zero_snr nothing is left of the sample at the last time, so that it "
        "can't be told from the noise; use prediction_type v_prediction or sample")
  return DDPM(cfg, like_diffusers)


def make_betas(cfg: SchedulerConfig) -> Float[np.ndarray, "1000"]:
  """Return the variance of the noise added at each time."""
  total, start, end = cfg.num_train_timesteps, cfg.beta_start, cfg.beta_end
  if cfg.beta_schedule == "linear":
    betas = np.linspace(start, end, total)
  elif cfg.beta_schedule == "scaled_linear":
    betas = np.linspace(start**0.5, end**0.5, total) ** 2
  elif cfg.beta_schedule == "sigmoid":
    betas = (end - start) / (1 + np.exp(-np.linspace(-6, 6, total))) + start
  else:  # squaredcos_cap_v2 (Nichol & Dhariwal 2021)
    signal = [math.cos((i / total + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(total + 1)]
    betas = np.array([min(1 - signal[i + 1] / signal[i], 0.999) for i in range(total)])
  return betas.astype(np.float32)


def zero_terminal_snr(betas: Float[np.ndarray, "1000"]) -> Float[np.ndarray, "1000"]:
  """Rescale betas so that the last time is pure noise (Lin et al. 2023, algorithm 1)."""
  signal = np.sqrt(np.cumprod(1 - betas.astype(np.float64)))
  signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
  alphas_cumprod = signal**2
  return (1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])).astype(np.float32)
