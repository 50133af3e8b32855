"""Flow matching along straight lines (paper, section 3.4; Lipman et al. 2023), as the published code discretises it.

  x_σ = σ·noise + (1 − σ)·x,   target v = noise − x,   Euler: x ← x + (σ' − σ)·v

σ[i] = 1 − i/1000, shifted by s·σ / (1 + (s − 1)·σ). As in the published code, samplers shift the shifted table again.
The published grid has K evaluations down to σ = 0.001, and ends at 0, so that its last step changes almost nothing. The
full grid has K equal intervals before the shift, of which the last ends at 0.

Adams-Bashforth 2 extrapolates the velocity to the middle of each step: v + (σ' − σ) / 2(σ − σ_last) · (v − v_last).
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nova_jax.utils.arrays import AnyArray
from nova_jax.utils.errors import UserError


class FlowSteps(NamedTuple):
  """Time of each step, σ' − σ, and the extrapolation of the velocity (see `Scheduler.steps`)."""

  time: Float[np.ndarray, "K"]
  delta: Float[np.ndarray, "K"]
  change: Float[np.ndarray, "K"] | None = None


def shifted(sigmas: Float[np.ndarray, "K"], shift: float) -> Float[np.ndarray, "K"]:
  """Shift noise levels, towards more noise if `shift` > 1."""
  return (shift * sigmas / (1 + (shift - 1) * sigmas)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class FlowMatching:
  """The process and its samplers."""

  num_train_timesteps: int = 1000
  shift: float = 1.0
  adds_noise: ClassVar[bool] = False
  solvers: ClassVar[tuple[str, ...]] = ("euler", "ab2")

  def __post_init__(self):
    if self.shift <= 0:
      raise UserError(f"scheduler.shift: expected a positive number, got {self.shift}")

  @property
  def sigmas(self) -> Float[np.ndarray, "1000"]:
    """Training table of noise levels, from pure noise to almost none."""
    times = np.arange(self.num_train_timesteps, 0, -1, dtype=np.float32)
    return shifted(times / np.float32(self.num_train_timesteps), self.shift)

  def sample_indices(self, key: jax.Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Sample ⌊1000·sigmoid(n)⌋ with n ~ N(0, 1)."""
    share = jax.nn.sigmoid(jax.random.normal(key, shape))
    return jnp.minimum((share * self.num_train_timesteps).astype(jnp.int32), self.num_train_timesteps - 1)

  def network_time(self, indices: Int[AnyArray, "..."]) -> Float[AnyArray, "..."]:
    return jnp.asarray(self.sigmas * np.float32(self.num_train_timesteps))[indices]

  def add_noise(
      self, x: Float[AnyArray, "... P"], noise: Float[AnyArray, "... P"], indices: Int[AnyArray, "..."],
  ) -> Float[AnyArray, "... P"]:
    sigma = jnp.asarray(self.sigmas)[indices][..., None]
    return sigma * noise + (1 - sigma) * x

  def target(
      self, x: Float[AnyArray, "... P"], noise: Float[AnyArray, "... P"], indices: Int[AnyArray, "..."],
  ) -> Float[AnyArray, "... P"]:
    return noise - x

  def steps(
      self, num_steps: int, shift: float | None = None, solver: str | None = None, grid: str = "published"
  ) -> FlowSteps:
    """Return the sampler's table; `shift` replaces only the sampler's shift."""
    if shift is not None and shift <= 0:
      raise UserError(f"flow_shift: expected a positive number, got {shift}")
    table = self.sigmas
    scale = self.num_train_timesteps
    if grid == "full":
      times = np.linspace(float(table[0]) * scale, 0, num_steps + 1, dtype=np.float32)[:-1]
    else:
      times = np.linspace(float(table[0]) * scale, float(table[-1]) * scale, num_steps, dtype=np.float32)
    sigmas = shifted(times / np.float32(scale), self.shift if shift is None else shift)
    delta = np.diff(sigmas, append=np.float32(0))
    change = None
    if solver == "ab2":
      change = np.zeros_like(delta)
      change[1:] = delta[1:] / (2 * delta[:-1])
    return FlowSteps(sigmas * np.float32(scale), delta, change)

  def step(
      self, steps: FlowSteps, x: Float[AnyArray, "B S P"], prediction: Float[AnyArray, "B S P"],
      noise: Float[AnyArray, "B S P"] | None, valid: Bool[AnyArray, "S"],
  ):
    return self.move(steps, x, self.estimate(steps, x, prediction, valid), noise)

  def estimate(
      self, steps: FlowSteps, x: Float[AnyArray, "B S P"], prediction: Float[AnyArray, "B S P"],
      valid: Bool[AnyArray, "S"],
  ) -> Float[AnyArray, "B S P"]:
    """Return the velocity, which the denoiser predicts directly."""
    return prediction

  def move(
      self, steps: FlowSteps, x: Float[AnyArray, "B S P"], estimate: Float[AnyArray, "B S P"],
      noise: Float[AnyArray, "B S P"] | None,
  ) -> Float[AnyArray, "B S P"]:
    return x + steps.delta * estimate
