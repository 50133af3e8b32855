"""A model as requests are resolved against it: its card, and the parts at hand beside the transformer."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from nova_jax.autoencoders import Autoencoder
from nova_jax.autoencoders.streaming import frames_for_latent
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.config import ModelConfig
from nova_jax.diffusion import Scheduler
from nova_jax.diffusion.flow_matching import FlowMatching
from nova_jax.pipeline.presets import EXACT, with_preset
from nova_jax.pipeline.request import Request
from nova_jax.text import TextEncoder
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError

TEMPERATURE = 1.0  # What a provenance that names no temperature means.


@dataclasses.dataclass(frozen=True, eq=False)
class ModelParts:
  """A model without its transformer.

  Attributes:
    card: content of `nova.json`.
    cfg: model configuration, with the precision of activations that it runs with.
    scheduler: diffusion process.
    text_encoder: turns prompts into embeddings; None takes embeddings alone.
    autoencoder: maps pixels to latents; None makes latents alone.
    has_guide: whether another model guides in place of unconditional passes.
  """

  card: ModelCard
  cfg: ModelConfig
  scheduler: Scheduler
  text_encoder: TextEncoder | None = None
  autoencoder: Autoencoder | None = None
  has_guide: bool = False

  @property
  def longest(self) -> int:
    """Latent frames of the longest clip that fits the model's positions: without a window."""
    # Absolute positions in time go up to `base_frames`, which may be more than was trained.
    return max(self.card.num_frames, self.cfg.base_frames)

  @property
  def frame_size(self) -> tuple[int, int]:
    """Height and width of a frame, in pixels, or in latents if there is no autoencoder."""
    stride = 1 if self.autoencoder is None else self.autoencoder.spatial_stride
    height, width = self.cfg.latent_size
    return height * stride, width * stride

  def require_autoencoder(self, name: str) -> Autoencoder:
    """Return the autoencoder, for the pictures of a setting.

    Raises:
      UserError: there is none.
    """
    if self.autoencoder is None:
      raise UserError(f"{name}: pictures need an autoencoder; load a folder that has one, or give latents")
    return self.autoencoder

  def num_latent_frames(self, num_frames: int | None = None) -> int:
    """Return how many latent frames make a clip of `num_frames`; None stands for the model's own length.

    Raises:
      UserError: a number of frames that the model can't make.
    """
    if num_frames is None:
      return self.card.num_frames
    if num_frames < 1:
      raise UserError(f"num_frames: expected at least 1, got {num_frames}")
    if self.longest == 1 < num_frames:
      raise UserError(f"num_frames: this model makes single pictures, got {num_frames}")
    return num_frames if self.autoencoder is None else self.autoencoder.num_latent_frames(num_frames)

  def num_shown_frames(self, num_latents: int) -> int:
    """Return how many frames latents show."""
    return num_latents if self.autoencoder is None else frames_for_latent(self.autoencoder, num_latents - 1).stop

  def window(self, request: Request, num_latents: int) -> int:
    """Return how many of `num_latents` latent frames the model sees at once.

    Raises:
      UserError: a window that the model can't have.
    """
    if request.window is not None:
      if not 2 <= request.window <= max(2, self.longest):
        raise UserError(f"window: this model sees 2 to {self.longest} latent frames at once, got {request.window}")
      return request.window
    return num_latents if num_latents <= self.longest else self.card.num_frames

  def with_preset(self, request: Request) -> Request:
    """Return a request with what its preset says of this model in place of settings that are left unset."""
    return with_preset(request, self.card.sample, self.scheduler, self.has_guide)

  def max_given(self, request: Request) -> int:
    """Return how many latent frames may be given: as many as the model sees, less the one to make."""
    return self.window(request, self.card.num_frames) - 1

  def check_size(self, batch: int, num_latents: int) -> None:
    """Refuse more clips or pixels than one call makes.

    Args:
      batch: number of clips.
      num_latents: latent frames of each.
    """
    if batch > limits.BATCH:
      raise UserError(f"expected at most {limits.BATCH:,} clips at once (limits.BATCH), got {batch:,}")
    num_frames, size = self.num_shown_frames(num_latents), self.frame_size
    pixels = batch * num_frames * math.prod(size)
    if pixels > limits.REQUEST_PIXELS:
      raise UserError(
          f"{batch:,} clips of {num_frames:,} frames of {size[0]} x {size[1]} are {pixels:,} pixels; expected at most "
          f"{limits.REQUEST_PIXELS:,} (limits.REQUEST_PIXELS): ask for fewer clips at once (num_samples, batch_size) "
          "or fewer frames (num_frames)")

  @property
  def defaults(self) -> dict[str, Any]:
    """Model-specific defaults for settings that a caller leaves unset."""
    sample, num_frames = self.card.sample, self.card.num_frames
    motion = {"motion_flow": sample.motion_flow, "fps": sample.fps} if self.cfg.has_motion else {}
    return motion | {
        "num_frames": num_frames if self.autoencoder is None else self.autoencoder.num_frames(num_frames),
        "num_inference_steps": sample.num_inference_steps, "num_diffusion_steps": sample.num_diffusion_steps,
        "guidance_scale": sample.guidance_scale, "temperature": sample.temperature}

  def implied(self, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what settings that are left out amount to beside those that are given."""
    request = Request.from_settings({name: value for name, value in settings.items() if name != "window"})
    implied = EXACT | {
        "negative_prompt": "", "min_guidance_scale": request.guidance_scale,
        "later_inference_steps": request.num_inference_steps, "solver": self.scheduler.solvers[0],
        "later_token_order": request.token_order, "later_set_schedule": request.set_schedule,
        "temperature": TEMPERATURE, "last_temperature": request.temperature}
    if isinstance(self.scheduler, FlowMatching):
      implied["flow_shift"] = self.scheduler.shift
    if request.video is None:  # Else a window also says how much of it is seen.
      implied["window"] = self.window(request, self.num_latent_frames(request.num_frames))
    return implied
