"""Presets: settings by one name, relative to how a model generates by itself.

`fast` and `faster` were chosen on two digits that cross, among the ways to save operations that docs/two_digits.md
measures. A setting that a caller states wins over that of the preset.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from nova_jax.config import SampleConfig
from nova_jax.diffusion import Scheduler
from nova_jax.pipeline.request import DEFAULTS, SETTINGS, Request

# What generation without a preset is.
EXACT: types.MappingProxyType[str, Any] = types.MappingProxyType(
    {"refresh_every": 1, "guidance_every": 1, "diffusion_grid": "published"})
_PAPER = {"num_inference_steps": 128, "num_diffusion_steps": 100, "guidance_scale": 7.0}


@dataclasses.dataclass(frozen=True)
class Approximation:
  """What a preset makes of the numbers with which a model generates by itself.

  Attributes:
    later_sets: divisor of the number of sets, for all frames but the first.
    steps: divisor of the number of diffusion steps, which a solver of second order takes on the full grid.
    refresh_every, guidance_every: settings of these names.
  """

  later_sets: int
  steps: int
  refresh_every: int
  guidance_every: int


APPROXIMATE: types.MappingProxyType[str, Approximation] = types.MappingProxyType({
    "fast": Approximation(later_sets=2, steps=4, refresh_every=4, guidance_every=4),
    "faster": Approximation(later_sets=4, steps=6, refresh_every=4, guidance_every=4)})
FEWEST_SETS, FEWEST_STEPS = 2, 3


def preset_settings(name: str, sample: SampleConfig, scheduler: Scheduler) -> dict[str, Any]:
  """Return the settings of a preset.

  Args:
    name: one of `request.PRESETS`.
    sample: how the model generates by itself.
    scheduler: diffusion process, whose last solver is of second order.
  """
  if name not in APPROXIMATE:
    return EXACT | (_PAPER if name == "paper" else {})
  how = APPROXIMATE[name]
  return {
      "later_inference_steps": _share(sample.num_inference_steps, how.later_sets, FEWEST_SETS),
      "num_diffusion_steps": _share(sample.num_diffusion_steps, how.steps, FEWEST_STEPS),
      # That of second order is not stable in fewer steps.
      "solver": scheduler.solvers[-1 if sample.num_diffusion_steps >= FEWEST_STEPS else -2], "diffusion_grid": "full",
      "refresh_every": how.refresh_every, "guidance_every": how.guidance_every}


def _share(number: int, divisor: int, fewest: int) -> int:
  """Return a part of a number that isn't too few, and no more than the number itself."""
  return min(number, max(number // divisor, fewest))


def with_preset(request: Request, sample: SampleConfig, scheduler: Scheduler, has_guide: bool = False) -> Request:
  """Return a request with the settings of its preset in place of those that it leaves unset.

  Args:
    request: settings of a call.
    sample, scheduler: as for `preset_settings`.
    has_guide: whether another model guides in place of unconditional passes, of which then none is left out.
  """
  if request.num_inference_steps is not None:  # Later frames get a part of these.
    sample = dataclasses.replace(sample, num_inference_steps=request.num_inference_steps)
  if request.num_diffusion_steps is not None:
    sample = dataclasses.replace(sample, num_diffusion_steps=request.num_diffusion_steps)
  settings = preset_settings(request.preset or "exact", sample, scheduler)
  if has_guide:
    settings["guidance_every"] = 1
  if request.refresh_every is not None and settings["guidance_every"] > 1:  # It must be a multiple.
    settings["guidance_every"] = -(-settings["guidance_every"] // request.refresh_every) * request.refresh_every
  if (stated := request.guidance_every) is not None and stated > 1:
    settings["refresh_every"] = max(number for number in range(1, settings["refresh_every"] + 1) if not stated % number)
  unset = {name: value for name, value in settings.items() if getattr(request, name) is None}
  return dataclasses.replace(request, preset=None, **unset)


def without_preset(settings: Mapping[str, Any], sample: SampleConfig, scheduler: Scheduler) -> dict[str, Any]:
  """Return settings by name that say themselves what their preset says, if they name one."""
  if settings.get("preset") is None:
    return dict(settings)
  request = with_preset(Request.from_settings(settings), sample, scheduler)
  return {name: getattr(request, name) for name in SETTINGS if getattr(request, name) != DEFAULTS[name]}
