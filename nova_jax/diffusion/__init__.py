"""Diffusion processes behind one interface, and the training loss.

A scheduler is a frozen dataclass of numbers. Training asks it for times, noised tokens and targets; generation asks it
for a `Steps` table made on the host and then takes one pure step after another inside `lax.scan`. Solvers differ in
their tables: one of second order tells how far an estimate is extrapolated from the one before.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
from jaxtyping import Array, Bool, Float, Int

from nova_jax.config import SchedulerConfig
from nova_jax.diffusion.ddpm import make_ddpm
from nova_jax.diffusion.flow_matching import FlowMatching
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean


class Scheduler(Protocol):
  """What training and generation need of a diffusion process."""

  num_train_timesteps: int
  adds_noise: bool  # Whether the first solver's steps add fresh noise; those of the others never do.
  solvers: tuple[str, ...]  # The published one first.

  def sample_indices(self, key: jax.Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Draw training times, as indices into the process's tables."""

  def network_time(self, indices: Int[Array, "..."]) -> Float[Array, "..."]:
    """Return the time that the denoiser is given for these indices."""

  def add_noise(
      self, x: Float[Array, "... P"], noise: Float[Array, "... P"], indices: Int[Array, "..."],
  ) -> Float[Array, "... P"]:
    """Return x noised to these times."""

  def target(
      self, x: Float[Array, "... P"], noise: Float[Array, "... P"], indices: Int[Array, "..."],
  ) -> Float[Array, "... P"]:
    """Return what the denoiser should predict."""

  def steps(
      self, num_steps: int, shift: float | None = None, solver: str | None = None, grid: str = "published"
  ) -> Any:
    """Return the table of a sampler of `num_steps`: a NamedTuple of arrays [K], `time` and `change` among them.

    Args:
      num_steps: K, evaluations of the denoiser.
      shift: of flow matching; None takes the process's own.
      solver: one of `solvers`; None takes the first. `change` is by what share of its change since the step before an
        estimate is extrapolated, 0 for the first step; None for solvers that look at nothing before.
      grid: "published", or "full": all K evaluations count, and the last step ends at the sample itself.
    """

  def step(
      self, steps: Any, x: Float[Array, "B S P"], prediction: Float[Array, "B S P"],
      noise: Float[Array, "B S P"] | None, valid: Bool[Array, "S"],
  ) -> Float[Array, "B S P"]:
    """Take the step that one row of the table describes; tokens that are not `valid` are padding.

    It is `move` with what `estimate` returns.
    """

  def estimate(
      self, steps: Any, x: Float[Array, "B S P"], prediction: Float[Array, "B S P"], valid: Bool[Array, "S"],
  ) -> Float[Array, "B S P"]:
    """Return what a solver extrapolates and moves by: the velocity, or the sample that is predicted."""

  def move(
      self, steps: Any, x: Float[Array, "B S P"], estimate: Float[Array, "B S P"], noise: Float[Array, "B S P"] | None,
  ) -> Float[Array, "B S P"]:
    """Return x at the end of the step; without noise if it is None."""


_MAKERS: dict[str, Callable[[SchedulerConfig], Scheduler]] = {
    "flow_matching": lambda cfg: FlowMatching(cfg.num_train_timesteps, cfg.shift),
    "ddpm": lambda cfg: make_ddpm(cfg, like_diffusers=False),
    "diffusers_ddpm": lambda cfg: make_ddpm(cfg, like_diffusers=True),
}


def make_scheduler(cfg: SchedulerConfig) -> Scheduler:
  """Make the scheduler that a config names."""
  if cfg.name not in _MAKERS:
    raise UserError(f"scheduler.name: {cfg.name!r} is not a diffusion process{did_you_mean(cfg.name, _MAKERS)}")
  return _MAKERS[cfg.name](cfg)

