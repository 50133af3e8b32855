"""Diffusion processes behind one interface, and the training loss.

A scheduler is a frozen dataclass of numbers. Training takes diffusion times, noised tokens and targets from it.
Generation takes a table of steps, which is computed on the host, and then one pure step after another in `lax.scan`.
Solvers differ in their tables: that of a second-order solver says how far to extrapolate from the previous estimate.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
from jaxtyping import Array, Bool, Float, Int

from nova_jax.config import SchedulerConfig
from nova_jax.diffusion.ddpm import make_ddpm
from nova_jax.diffusion.flow_matching import FlowMatching
from nova_jax.utils.arrays import AnyArray
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean


class Scheduler(Protocol):
  """A diffusion process, as training and generation use it."""

  @property
  def num_train_timesteps(self) -> int:
    """Number of training times."""

  @property
  def adds_noise(self) -> bool:
    """Whether steps of the first solver add noise; those of other solvers never do."""

  @property
  def solvers(self) -> tuple[str, ...]:
    """Names of solvers; the published one is first."""

  def sample_indices(self, key: jax.Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Sample training times, as indices into the tables of the process."""

  def network_time(self, indices: Int[AnyArray, "..."]) -> Float[AnyArray, "..."]:
    """Return the times that the denoiser receives for these indices."""

  def add_noise(
      self, x: Float[AnyArray, "... P"], noise: Float[AnyArray, "... P"], indices: Int[AnyArray, "..."],
  ) -> Float[AnyArray, "... P"]:
    """Return x noised to the times of these indices."""

  def target(
      self, x: Float[AnyArray, "... P"], noise: Float[AnyArray, "... P"], indices: Int[AnyArray, "..."],
  ) -> Float[AnyArray, "... P"]:
    """Return the denoiser's training target."""

  def steps(
      self, num_steps: int, shift: float | None = None, solver: str | None = None, grid: str = "published"
  ) -> Any:
    """Return a sampler's table: a NamedTuple of arrays [K], among them `time` and `change`.

    An estimate is extrapolated by `change` times its difference from the previous step's estimate. `change` is 0 for
    the first step, and None for solvers without extrapolation.

    Args:
      num_steps: number K of denoiser evaluations.
      shift: shift of flow matching; None takes the process's own.
      solver: name of one of `solvers`; None takes the first.
      grid: "published", or "full", in which the last of K steps ends at the sample itself.
    """

  def step(
      self, steps: Any, x: Float[AnyArray, "B S P"], prediction: Float[AnyArray, "B S P"],
      noise: Float[AnyArray, "B S P"] | None, valid: Bool[AnyArray, "S"],
  ) -> Float[AnyArray, "B S P"]:
    """Take the step that one row of the table describes: `move` with the result of `estimate`.

    Tokens that are not `valid` are padding.
    """

  def estimate(
      self, steps: Any, x: Float[AnyArray, "B S P"], prediction: Float[AnyArray, "B S P"],
      valid: Bool[AnyArray, "S"],
  ) -> Float[AnyArray, "B S P"]:
    """Return the quantity that solvers extrapolate: the velocity, or the predicted sample."""

  def move(
      self, steps: Any, x: Float[AnyArray, "B S P"], estimate: Float[AnyArray, "B S P"],
      noise: Float[AnyArray, "B S P"] | None,
  ) -> Float[AnyArray, "B S P"]:
    """Return x at the end of the step, with `noise` added unless it is None."""


_MAKERS: dict[str, Callable[[SchedulerConfig], Scheduler]] = {
    "flow_matching": lambda cfg: FlowMatching(cfg.num_train_timesteps, cfg.shift),
    "ddpm": lambda cfg: make_ddpm(cfg, like_diffusers=False),
    "diffusers_ddpm": lambda cfg: make_ddpm(cfg, like_diffusers=True),
}


def make_scheduler(cfg: SchedulerConfig) -> Scheduler:
  """Create the scheduler that a config describes.

  Raises:
    UserError: the name of the process or one of its settings is unknown.
  """
  if cfg.name not in _MAKERS:
    raise UserError(f"scheduler.name: {cfg.name!r} is not a diffusion process{did_you_mean(cfg.name, _MAKERS)}")
  return _MAKERS[cfg.name](cfg)

