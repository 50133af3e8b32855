"""What a caller of the pipeline asks for: every setting of a generation, in one place.

Invariant: an unknown name is an error that names the nearest known one.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from nova_jax.config import LARGEST
from nova_jax.sampling.sampler import Noise
from nova_jax.sampling.sets import ORDERS, SCHEDULES
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

TextEmbeds = Float[Array, "B L E"] | Sequence[Float[Array, "l E"]]
Texts = str | Sequence[str]

# Settings by name, for a quick look, for long videos, and as the paper evaluates.
PRESETS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({
    "draft": {"num_inference_steps": 16, "num_diffusion_steps": 10, "later_inference_steps": 8, "refresh_every": 4},
    "fast": {"refresh_every": 3},
    "paper": {"num_inference_steps": 128, "num_diffusion_steps": 100, "guidance_scale": 7.0},
})

# Frames a second: no file shows a frame for longer than a hundred seconds, no screen for less than a millisecond.
MIN_FPS, MAX_FPS = 0.01, 1000
_RANGES = {
    "guidance_trunc": (0, 1000), "guidance_start": (0, 1000), "guidance_renorm": (0, 1), "temperature": (0, 2),
    "last_temperature": (0, 2), "fps": (MIN_FPS, MAX_FPS)}
# Settings that are one of some names; None is among them where a model has its own.
CHOICES: Mapping[str, tuple[str, ...]] = types.MappingProxyType({
    "solver": ("euler", "ab2", "ancestral", "ddim", "dpmpp_2m"), "diffusion_grid": ("published", "full"),
    "token_order": ORDERS, "later_token_order": ORDERS, "set_schedule": SCHEDULES, "later_set_schedule": SCHEDULES})
_COUNTS = (
    "num_samples", "num_frames", "window", "context_frames", "later_context", "num_inference_steps",
    "later_inference_steps", "refresh_every", "guidance_every")
_NUMBERS = (
    "temperature", "last_temperature", "guidance_scale", "min_guidance_scale", "guidance_trunc", "guidance_start",
    "guidance_renorm", "image_guidance_scale", "flow_shift",
    "motion_flow", "fps")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
  """The settings of one call; what is None takes the model's own default (`nova.json`).

  Attributes:
    prompt: one or several texts; or give `text_embeds`. One prompt serves all pictures, and one picture all prompts.
    text_embeds: a text encoder's output, [B, L, E] or a list of [l, E].
    negative_prompt: what the unconditional passes see instead of no text.
    negative_text_embeds: the same as embeddings.
    label: classes, for a class-conditional model.
    later_prompts: prompts that take over, by the frame at which they do.
    later_context: latent frames before such a change that the new prompt still sees; None for all in the window. With
      few, what moved before doesn't go on moving.
    image: the first frame: a file, a PIL image or uint8 [height, width, 1 or 3] of any size, or a list of them. With
      `mask` or `place` it is the frame itself, of which a part is made anew.
    video: a clip to continue: its last frames are given. A file or uint8 [T, height, width, 1 or 3], or a list of them.
      With `mask` or `place` it is a clip of which a part is made anew.
    context_frames: how many last frames of `video` are given, at most; None for all that the model can see.
    given: the first latent frames, [B, G, h, w, C].
    mask: what is made anew: a box (top, left, bottom, right), a picture that is white there, or bool [T, h, w].
    place: the box of the frame into which image or video are put; what is around it is made anew.
    num_samples: clips a prompt.
    num_frames: frames of a clip, given ones included; latent ones if there is no autoencoder. 1 makes a picture. Clips
      longer than the model was made for slide a window over its frames.
    window: latent frames that the model sees at most, the one it makes included.
    num_inference_steps: S, sets of tokens a frame.
    later_inference_steps: the same for all frames but the first; None for as many.
    token_order: the order in which tokens are written: "random"; "halton", evenly spread, the same for all samples; or
      "checkerboard", every other token first.
    later_token_order: the same for all frames but the first; None for the same order.
    set_schedule: sizes of sets: "cosine", which grow; "constant"; or "two_stage", half of the tokens by a cosine in
      seven eighths of the sets, and the other half in the rest.
    later_set_schedule: the same for all frames but the first; None for the same schedule.
    num_diffusion_steps: K, diffusion steps a set, each of one evaluation of the denoiser.
    solver: how a diffusion step is taken. Flow matching: "euler", or "ab2" (Adams-Bashforth of second order). DDPM:
      "ancestral", or "ddim" and "dpmpp_2m" (DPM-Solver++, second order), which add no noise. None takes the first.
    diffusion_grid: the times of diffusion steps. "published", or "full": all K evaluations at equal distances, and
      the last step ends at the sample itself; with flow matching the last one of the published grid is wasted.
    temperature: factor on all noise, that which a set begins with and that which diffusion steps add.
    last_temperature: the last frame's; those between are in between, linearly. None for the same in all frames.
    refresh_every: sets from one full pass of the spatial encoder to the next; in between, features are reused
      (approximate, `sampling/reuse.py`). 1 is exact.
    guidance_scale: classifier-free guidance; at most 1 for none.
    min_guidance_scale: the first set's scale, growing to `guidance_scale`; None for a constant one.
    guidance_trunc: time in [0, 1000] below which guidance ends.
    guidance_start: time in [0, 1000] above which there is no guidance yet.
    guidance_every: sets from one unconditional pass of the spatial encoder to the next; in between its difference from
      the conditional one is reused (approximate, `sampling/reuse.py`). 1 is exact. A multiple of `refresh_every`.
    guidance_renorm: lower bound of the factor that shrinks guided predictions to the conditional one's norm.
    image_guidance_scale: guidance by earlier frames, apart from text.
    flow_shift: replaces the flow-matching sampler's shift.
    motion_flow: motion score, one for all or one for each clip.
    fps: frames per second, likewise.
    seed: one number, from which each sample derives its own randomness, or one for each sample.
    order: the order in which tokens are written, to reproduce a generation.
    noise: the noise of all generated frames and non-empty sets, to reproduce a generation.
    output: "pixels" or "latent".
  """

  prompt: Texts | None = None
  text_embeds: TextEmbeds | None = None
  negative_prompt: Texts | None = None
  negative_text_embeds: TextEmbeds | None = None
  label: int | Sequence[int] | None = None
  later_prompts: Mapping[int, Texts] | None = None
  later_context: int | None = None
  image: Any = None
  video: Any = None
  context_frames: int | None = None
  given: Float[Array, "B G h w C"] | None = None
  mask: Any = None
  place: Sequence[int] | None = None
  num_samples: int = 1
  num_frames: int | None = None
  window: int | None = None
  num_inference_steps: int | None = None
  later_inference_steps: int | None = None
  token_order: str = "random"
  later_token_order: str | None = None
  set_schedule: str = "cosine"
  later_set_schedule: str | None = None
  num_diffusion_steps: int | None = None
  solver: str | None = None
  diffusion_grid: str = "published"
  temperature: float = 1.0
  last_temperature: float | None = None
  refresh_every: int = 1
  guidance_scale: float | None = None
  min_guidance_scale: float | None = None
  guidance_trunc: float = 0.0
  guidance_start: float = 1000.0
  guidance_every: int = 1
  guidance_renorm: float = 1.0
  image_guidance_scale: float = 0.0
  flow_shift: float | None = None
  motion_flow: float | Sequence[float] | None = None
  fps: float | Sequence[float] | None = None
  seed: int | Sequence[int] = 0
  order: Int[Array, "B N"] | None = None
  noise: Noise | Float[Array, "F S B h w C"] | None = None
  output: str = "pixels"

  @classmethod
  def of(cls, settings: Mapping[str, Any]) -> "Request":
    """Take settings by name.

    Raises:
      ValueError: one that there is not, or a value that no model can do.
    """
    known = [field.name for field in dataclasses.fields(cls)]
    for name in settings:
      if name not in known:
        raise UserError(f"{name} is not a setting{did_you_mean(name, known)}")
    return cls(**settings)

  def __post_init__(self):
    if self.output not in ("pixels", "latent"):
      raise UserError(f'output: expected "pixels" or "latent", got {self.output!r}')
    if self.negative_prompt is not None and self.negative_text_embeds is not None:
      raise UserError("give either negative_prompt or negative_text_embeds, not both")
    if sum(value is not None for value in (self.image, self.video, self.given)) > 1:
      raise UserError("give one of image, video and given")
    if self.is_edit and self.image is None and self.video is None:
      raise UserError("mask and place: give the image or the video that they are about")
    if self.context_frames is not None and (self.video is None or self.is_edit):
      raise UserError("context_frames: it says how much of a video is continued; give video, and no mask or place")
    if self.order is not None and (self.token_order != "random" or self.later_token_order is not None):
      raise UserError("order: it is the order of tokens itself; leave out token_order and later_token_order")
    self._check_values()

  def _check_values(self) -> None:
    """Refuse values of a wrong type, and numbers that no model can do."""
    for name in ("prompt", "negative_prompt"):
      if (value := getattr(self, name)) is not None:
        if not _is_text(value):
          raise UserError(f"{name}: expected a text or several, got {_shorten(value)}")
        _check_length(name, value)
    if (later := self.later_prompts) is not None and not (
        isinstance(later, Mapping) and all(map(_is_whole, later)) and all(map(_is_text, later.values()))):
      raise UserError(
          f"later_prompts: expected texts by frame, such as {{8: 'a fox sits down'}}, got {_shorten(later)}")
    for texts in (later or {}).values():
      _check_length("later_prompts", texts)
    for name, choices in CHOICES.items():
      if (value := getattr(self, name)) is not None and (not isinstance(value, str) or value not in choices):
        raise UserError(f"{name}: expected one of {', '.join(choices)}, got {_shorten(value)}")
    for name in _COUNTS:
      if (value := getattr(self, name)) is None:
        continue
      if not _is_whole(value):
        raise UserError(f"{name}: expected a whole number, got {value!r}")
      if value < 1 or value > LARGEST:
        limit = "at least 1" if value < 1 else f"at most {LARGEST}"
        raise UserError(f"{name}: expected {limit}, got {value}")
    for name in _NUMBERS:
      if (value := getattr(self, name)) is not None:
        values = np.asarray(value)
        if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
          raise UserError(f"{name}: expected a finite number, got {_shorten(value)}")
    for name, (low, high) in _RANGES.items():
      if (value := getattr(self, name)) is not None and (np.min(value) < low or np.max(value) > high):
        raise UserError(f"{name}: expected {low:g} to {high:g}, got {value}")

  @property
  def is_edit(self) -> bool:
    """Whether a part of what is given is made anew."""
    return self.mask is not None or self.place is not None


def _check_length(name: str, texts: Texts) -> None:
  """Refuse a text that no file system, sheet or text encoder has room for."""
  for text in [texts] if isinstance(texts, str) else texts:
    if len(text.encode(errors="replace")) > limits.CAPTION_BYTES:
      raise UserError(
          f"{name}: expected at most {limits.CAPTION_BYTES:,} bytes (limits.CAPTION_BYTES), got {len(text):,} letters: "
          f"{_shorten(text)}")


def _shorten(value: Any) -> str:
  """Return what stands for a value in an error."""
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:80]}…"


def _is_whole(value: Any) -> bool:
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
  return isinstance(value, str) or isinstance(value, (Sequence, np.ndarray)) and all(
      isinstance(text, str) for text in value)
