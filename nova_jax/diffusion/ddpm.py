"""DDPM (Ho et al. 2020), in the two kinds that share a name: NOVA's own and the one of the diffusers library.

  x_t = √ᾱ_t·x + √(1 − ᾱ_t)·noise
  x̂_0 = a·x_t + b·prediction                           (what a, b are depends on the prediction type)
  x_{t'} = c·x̂_0 + d·x_t + σ·noise                     (equations 6 and 7; noise only where t > 0)

NOVA's kind steps to t − 1000 // K and never clips x̂_0; diffusers' steps to the next time of its list, and clips by
default. Tables are float32 whatever the model computes in: in bf16 the noise below t = 21 would vanish.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nova_jax.config import SchedulerConfig


class DDPMSteps(NamedTuple):
  """Time of each step, and the coefficients of the equations above."""

  time: Float[np.ndarray, "K"]
  x0_sample: Float[np.ndarray, "K"]
  x0_prediction: Float[np.ndarray, "K"]
  mean_x0: Float[np.ndarray, "K"]
  mean_sample: Float[np.ndarray, "K"]
  std: Float[np.ndarray, "K"]


@dataclasses.dataclass(frozen=True)
class DDPM:
  """The process and its ancestral sampler; make it with `make_ddpm`."""

  cfg: SchedulerConfig
  like_diffusers: bool
  adds_noise: ClassVar[bool] = True

  @property
  def num_train_timesteps(self) -> int:
    return self.cfg.num_train_timesteps

  @property
  def alphas_cumprod(self) -> Float[np.ndarray, "1000"]:
    """ᾱ, the share of the signal left at each time."""
    betas = make_betas(self.cfg)
    if self.cfg.rescale_betas_zero_snr:
      betas = zero_terminal_snr(betas)
    return np.cumprod((1 - betas).astype(np.float32), dtype=np.float64).astype(np.float32)

  def sample_indices(self, key: jax.Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Draw times uniformly."""
    return jax.random.randint(key, shape, 0, self.cfg.num_train_timesteps)

  def network_time(self, indices: Int[Array, "..."]) -> Float[Array, "..."]:
    return indices.astype(jnp.float32)

  def add_noise(
      self, x: Float[Array, "... P"], noise: Float[Array, "... P"], indices: Int[Array, "..."],
  ) -> Float[Array, "... P"]:
    signal, sigma = self._levels(indices)
    return signal * x + sigma * noise

  def target(
      self, x: Float[Array, "... P"], noise: Float[Array, "... P"], indices: Int[Array, "..."],
  ) -> Float[Array, "... P"]:
    if self.cfg.prediction_type == "epsilon":
      return noise
    if self.cfg.prediction_type == "sample":
      return x
    signal, sigma = self._levels(indices)
    return signal * noise - sigma * x

  def _levels(self, indices):
    alphas = jnp.asarray(self.alphas_cumprod)[indices][..., None]
    return jnp.sqrt(alphas), jnp.sqrt(1 - alphas)

  def timesteps(self, num_steps: int) -> Int[np.ndarray, "K"]:
    """Return the sampler's times, falling."""
    total, spacing = self.cfg.num_train_timesteps, self.cfg.timestep_spacing
    if spacing == "linspace":
      return np.linspace(0, total - 1, num_steps).round()[::-1].astype(np.int64)
    if spacing == "leading":
      return (np.arange(num_steps) * (total // num_steps))[::-1] + self.cfg.steps_offset
    return np.arange(total, 0, -total / num_steps).round().astype(np.int64) - 1

  def steps(self, num_steps: int, shift: float | None = None) -> DDPMSteps:
    """Return the sampler's table; there is no shift to replace."""
    if shift is not None:
      raise ValueError(f"flow_shift: this model's sampler is DDPM, which has no shift (got {shift})")
    cfg, alphas_cumprod = self.cfg, self.alphas_cumprod
    t = self.timesteps(num_steps)
    previous = np.append(t[1:], -1) if self.like_diffusers else t - cfg.num_train_timesteps // num_steps
    alpha = alphas_cumprod[t]
    alpha_previous = np.where(previous >= 0, alphas_cumprod[np.maximum(previous, 0)], np.float32(1))
    beta, beta_previous = 1 - alpha, 1 - alpha_previous
    alpha_step = alpha / alpha_previous
    beta_step = 1 - alpha_step
    variance = beta_step if cfg.variance_type == "fixed_large" else np.maximum(beta_previous / beta * beta_step, 1e-20)
    one = np.ones_like(alpha)
    with np.errstate(divide="ignore"):  # Zero terminal SNR has no noise prediction at its first step; see make_ddpm.
      x0_sample, x0_prediction = {
          "epsilon": (1 / np.sqrt(alpha), -np.sqrt(beta) / np.sqrt(alpha)),
          "sample": (0 * one, one),
          "v_prediction": (np.sqrt(alpha), -np.sqrt(beta)),
      }[cfg.prediction_type]
    table = DDPMSteps(
        time=t, x0_sample=x0_sample, x0_prediction=x0_prediction, mean_x0=np.sqrt(alpha_previous) * beta_step / beta,
        mean_sample=np.sqrt(alpha_step) * beta_previous / beta, std=np.where(t > 0, np.sqrt(variance), 0))
    return DDPMSteps(*(column.astype(np.float32) for column in table))

  def step(
      self, steps: DDPMSteps, x: Float[Array, "B S P"], prediction: Float[Array, "B S P"], noise: Float[Array, "B S P"],
      valid: Bool[Array, "S"],
  ) -> Float[Array, "B S P"]:
    x0 = steps.x0_sample * x + steps.x0_prediction * prediction
    if self.like_diffusers and self.cfg.thresholding:
      # Dynamic thresholding (Saharia et al. 2022): one bound a sample, from its own quantile.
      size = jnp.where(valid[:, None], jnp.abs(x0), jnp.nan)
      bound = jnp.nanquantile(size, self.cfg.dynamic_thresholding_ratio, axis=(1, 2), keepdims=True)
      bound = jnp.clip(bound, 1, self.cfg.sample_max_value)
      x0 = jnp.clip(x0, -bound, bound) / bound
    elif self.like_diffusers and self.cfg.clip_sample:
      x0 = jnp.clip(x0, -self.cfg.clip_sample_range, self.cfg.clip_sample_range)
    return steps.mean_x0 * x0 + steps.mean_sample * x + steps.std * noise


def make_ddpm(cfg: SchedulerConfig, like_diffusers: bool) -> DDPM:
  """Make a DDPM process, checking the choices that its config makes by name."""
  choices = {
      "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
      "prediction_type": ("epsilon", "sample", "v_prediction"),
      "variance_type": ("fixed_small", "fixed_small_log", "fixed_large"),
      "timestep_spacing": ("leading", "trailing", "linspace"),
  }
  for field, known in choices.items():
    if getattr(cfg, field) not in known:
      raise ValueError(f"scheduler.{field}: expected one of {', '.join(known)}, got {getattr(cfg, field)!r}")
  if cfg.rescale_betas_zero_snr and cfg.prediction_type == "epsilon":
    raise ValueError(
        "scheduler: with rescale_betas_zero_snr nothing is left of the sample at the last time, so that it "
        "can't be told from the noise; use prediction_type v_prediction or sample")
  return DDPM(cfg, like_diffusers)


def make_betas(cfg: SchedulerConfig) -> Float[np.ndarray, "1000"]:
  """Return the variances added at each time."""
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
