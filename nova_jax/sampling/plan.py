"""What a generation is told beforehand: its sets of tokens, diffusion steps and guidance, checked and tabulated."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nova_jax.config import ModelConfig
from nova_jax.diffusion import Scheduler
from nova_jax.models.embeddings import patchify
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.inputs import KnownTokens
from nova_jax.sampling.set_schedule import FEW_GROUPS, MAX_GROUPS, TokenSet, token_sets
from nova_jax.utils.errors import UserError


class Plan(NamedTuple):
  """What to generate, apart from condition and randomness."""

  cfg: ModelConfig
  scheduler: Scheduler
  num_frames: int  # T, given ones included.
  sets: tuple[TokenSet, ...]  # Of frame 0.
  later_sets: tuple[TokenSet, ...]
  max_groups: int  # Of the sets of a frame.
  num_steps: tuple[int, int]  # K of a frame's first and last sets.
  tables: Mapping[int, Any]  # The scheduler's steps, by their number.
  guidance: Guidance
  window: int  # W, frames that the temporal encoder sees at most, the one it makes included.
  num_sets: tuple[int, int]  # Asked for, for frame 0 and later ones.
  num_sinks: int = 0  # First frames that stay in the window.
  refresh_every: int = 1  # Sets from one full pass of the spatial encoder to the next (`feature_cache.py`).
  guidance_every: int = 1  # Sets from one run of the unconditional passes to the next.
  temperatures: tuple[float, float] = (1.0, 1.0)  # Of the first and the last frame.
  history_noise: float = 0.0  # Standard deviation of the noise on earlier frames.
  orders: tuple[str, str] = ("random", "random")  # Of tokens (`set_schedule.py`), of frame 0 and later ones.
  schedules: tuple[str, str] = ("cosine", "cosine")  # Of sets, likewise.
  adds_noise: bool = False  # Whether diffusion steps add fresh noise.
  later_context: int | None = None  # Frames before a change of the condition that are still seen; None for all.

  @property
  def table(self) -> Any:
    """Steps of a frame's first set."""
    return self.table_at(0)

  def table_at(self, phase: float) -> Any:
    """Return the steps of a set at a phase of its frame, `TokenSet.phase`."""
    first, last = self.num_steps
    return self.tables[round(first + (last - first) * phase)]

  def sets_for(self, frame: int, num_known: int = 0) -> tuple[TokenSet, ...]:
    """Return the sets that write a frame of which `num_known` tokens are given."""
    if num_known:
      later = frame > 0
      return token_sets(
          self.cfg.num_image_tokens, self.num_sets[later], num_known, self.schedules[later], self.max_groups)
    return self.later_sets if frame else self.sets

  def temperature(self, frame: int) -> float:
    """Return the factor on a frame's noise."""
    first, last = self.temperatures
    return first + (last - first) * frame / max(self.num_frames - 1, 1)


def make_plan(
    cfg: ModelConfig, scheduler: Scheduler, *, num_frames: int, num_sets: int, num_steps: int, guidance: Guidance,
    flow_shift: float | None = None, later_sets: int | None = None, window: int | None = None, num_sinks: int = 0,
    refresh_every: int = 1, later_context: int | None = None, solver: str | None = None, grid: str = "published",
    order: str = "random", later_order: str | None = None, schedule: str = "cosine", later_schedule: str | None = None,
    guidance_every: int = 1, last_set_steps: int | None = None, temperature: float = 1.0,
    last_temperature: float | None = None, history_noise: float = 0.0,
) -> Plan:
  """Check what is asked for, and tabulate it; what is None takes the default that `Request` tells."""
  if num_frames < 1:
    raise UserError(f"num_frames: expected at least 1, got {num_frames}")
  if not 1 <= num_steps <= scheduler.num_train_timesteps:
    raise UserError(f"num_diffusion_steps: expected 1 to {scheduler.num_train_timesteps}, got {num_steps}")
  if last_set_steps is not None and not 1 <= last_set_steps <= num_steps:
    raise UserError(
        f"last_set_diffusion_steps: expected 1 to num_diffusion_steps, {num_steps}, from which the number falls, got "
        f"{last_set_steps}")
  if history_noise and not cfg.history:
    raise UserError(
        f"history_noise: this model sees no earlier frames, so {history_noise} would do nothing; leave it out")
  if solver is not None and solver not in scheduler.solvers:
    raise UserError(f"solver: this model's diffusion process has {', '.join(scheduler.solvers)}, got {solver!r}")
  if guidance_every > 1 and guidance_every % refresh_every:
    raise UserError(
        f"guidance_every: expected a multiple of refresh_every, {refresh_every}, since what is kept is computed in "
        f"sets where all is, got {guidance_every}")
  window = num_frames if window is None else min(window, num_frames)
  if window < min(num_frames, 2):
    raise UserError(f"window: expected 2 frames or more, a given one and the next, got {window}")
  if window < num_frames and num_sinks > window - 2:
    raise UserError(
        f"sink_frames: a window of {window} frames has room for {window - 2} of them, beside the last frame and the "
        f"one to come, got {num_sinks}")
  numbers = num_sets, num_sets if later_sets is None else later_sets
  schedules = schedule, later_schedule or schedule
  # Reuse makes several programs of each group.
  max_groups = MAX_GROUPS if refresh_every == guidance_every == 1 else FEW_GROUPS
  sets = [
      token_sets(cfg.num_image_tokens, number, schedule=name, max_groups=max_groups)
      for number, name in zip(numbers, schedules, strict=True)]
  last_set_steps = last_set_steps or num_steps
  tables = {
      number: scheduler.steps(number, flow_shift, solver, grid) for number in range(last_set_steps, num_steps + 1)}
  return Plan(
      cfg, scheduler, num_frames, *sets, max_groups, (num_steps, last_set_steps), tables, guidance, window,
      numbers, num_sinks, refresh_every, guidance_every,
      (temperature, temperature if last_temperature is None else last_temperature),
      float(history_noise), (order, later_order or order), schedules,
      scheduler.adds_noise and solver in (None, scheduler.solvers[0]), later_context)


def begin_with_known(
    known: KnownTokens, order: Int[Array, "B N"], plan: Plan, frame: int
) -> tuple[Float[Array, "B N P"], Int[Array, "B N"], tuple[TokenSet, ...]]:
  """Return a frame with its known tokens, the order with these first, and the sets that write the others."""
  mask = known.mask[frame]
  x = jnp.where(mask[:, None], patchify(jnp.asarray(known.latents[:, frame]), plan.cfg.patch_size), 0)
  places = jnp.argsort(~mask[order], axis=-1, stable=True)
  return x, jnp.take_along_axis(order, places, axis=-1), plan.sets_for(frame, int(mask.sum()))
