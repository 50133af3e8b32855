"""The request: every setting of a generation, declared in one place.

Invariant: what no model can do is refused here; what one model can't do, `resolve` refuses.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from nova_jax.pipeline.declaration import declared_settings, is_whole, setting, shorten
from nova_jax.sampling.sampler import Noise
from nova_jax.sampling.set_schedule import ORDERS, SCHEDULES
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

TextEmbeds = Float[Array, "B L E"] | Sequence[Float[Array, "l E"]]
Texts = str | Sequence[str]
Box = Sequence[int]

PRESETS = ("exact", "fast", "faster", "paper")  # Settings by one name (`presets.py`).
# Frames a second: no file shows a frame for longer than a hundred seconds, no screen for less than a millisecond.
MIN_FPS, MAX_FPS = 0.01, 1000
_OWN = "the model's own"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
  """The settings of one call. A setting that is None takes the default of the model (`nova.json`)."""

  prompt: Texts | None = setting(
      str, "Text that says what to show, or several texts. One prompt serves all pictures, and one picture serves all "
      "prompts.", scope="content", label="Prompt", per_clip=True)
  text_embeds: TextEmbeds | None = setting(
      list, "Output of a text encoder in place of `prompt`, [B, L, E] or a list of [l, E].", scope="array")
  negative_prompt: Texts | None = setting(
      str, "Text that says what the clips must not show; the unconditional passes see it instead of no text.",
      scope="content", label="Negative prompt", per_clip=True)
  negative_text_embeds: TextEmbeds | None = setting(
      list, "Output of a text encoder in place of `negative_prompt`.", scope="array")
  label: int | Sequence[int] | None = setting(
      int, "Number of the class to show, for a class-conditional model.", scope="content", label="Class", per_clip=True)
  later_prompts: Mapping[int, Texts] | None = setting(
      dict, "Prompts that take over, by the frame at which they do.", scope="content", flag="prompt_at")
  later_context: int | None = setting(
      int, "Number of latent frames before a prompt of `later_prompts` that it still sees. With few, what moved before "
      "does not go on moving.", unset="all in the window", low=1, scope="content")
  image: Any = setting(
      str, "Picture that becomes the first frame, of any size; with `mask` or `outpaint_box`, the picture to edit.",
      scope="content", label="Image", names_file=True, per_clip=True)
  video: Any = setting(
      str, "Video that is continued from its end; with `mask` or `outpaint_box`, the video to edit. Latents in a "
      ".safetensors file are continued whole.", scope="content",
      names_file=True, per_clip=True)
  context_frames: int | None = setting(
      int, "Number of last frames of `video` that are given, at most.", unset="as many as the model can see", low=1,
      scope="content")
  given: Float[Array, "B G h w C"] | None = setting(
      list, "First latent frames, which are kept as they are and condition all later ones.", scope="array")
  mask: Any = setting(
      (str, list), "Part of `image` or `video` to make anew: a picture that is white there, or a box TOP,LEFT,BOTTOM,"
      "RIGHT in pixels.", scope="content", label="Mask", names_file=True)
  outpaint_box: Box | None = setting(
      list, "Box TOP,LEFT,BOTTOM,RIGHT of the frame into which `image` or `video` is put; the rest is made.",
      scope="content", stored_as="place")
  num_samples: int = setting(int, "Number of clips for each prompt.", 1, unset="1", low=1, scope="content")
  num_frames: int | None = setting(
      int, "Number of frames of a clip, given ones included; 1 makes pictures. In clips longer than the model was made "
      "for a window slides over the frames. Without an autoencoder, latent frames are counted.", unset=_OWN, low=1,
      scope="content", label="Frames")
  window: int | None = setting(
      int, "Number of latent frames that the model sees at most, the one it makes included.",
      unset="as many as it was trained on", low=1)
  sink_frames: int = setting(
      int, "Number of first latent frames that stay in the window when it slides, so that later frames still see them.",
      0, unset="0", low=0)
  preset: str | None = setting(
      str, "Settings by one name, over which those that are stated win: exact, what the model does by itself; fast and "
      "faster, which approximate it with fewer operations; or paper (128 sets, 100 diffusion steps, guidance 7).",
      unset="exact", choices=PRESETS, label="Preset")
  num_inference_steps: int | None = setting(
      int, "Number of sets in which the tokens of a frame are generated.", unset=_OWN, low=1, label="Sets / frame")
  later_inference_steps: int | None = setting(
      int, "Number of sets for all frames but the first.", unset="as many as for the first", low=1)
  token_order: str = setting(
      str, "Order in which the tokens of a frame are generated: random; halton, evenly spread and the same for all "
      "samples; checkerboard, every other token first; or still_first, where from the third frame on those come first "
      "that changed least in the two frames before.", "random", unset="random", choices=ORDERS)
  later_token_order: str | None = setting(
      str, "Order of tokens for all frames but the first.", unset="as for the first", choices=ORDERS)
  set_schedule: str = setting(
      str, "Sizes of the sets: growing by a cosine (cosine), equal (constant), or half of the tokens by a cosine in "
      "seven eighths of the sets and the other half in the rest (two_stage).", "cosine", unset="cosine",
      choices=SCHEDULES)
  later_set_schedule: str | None = setting(
      str, "Sizes of the sets for all frames but the first.", unset="as for the first", choices=SCHEDULES)
  num_diffusion_steps: int | None = setting(
      int, "Number of diffusion steps for each set of tokens, each of one evaluation of the denoiser.", unset=_OWN,
      low=1, label="Steps / set")
  last_set_diffusion_steps: int | None = setting(
      int, "Number of diffusion steps for the last sets of a frame, at most `num_diffusion_steps`, from which it falls "
      "in four stages.", unset="`num_diffusion_steps` throughout", low=1)
  solver: str | None = setting(
      str, "Way to take a diffusion step. Flow matching has euler, and ab2 (Adams-Bashforth of second order). DDPM has "
      "ancestral, and ddim and dpmpp_2m (DPM-Solver++ of second order), which add no noise.", unset="the first one",
      choices=("euler", "ab2", "ancestral", "ddim", "dpmpp_2m"))
  diffusion_grid: str | None = setting(
      str, "Times of the diffusion steps: the published ones, or full, where all evaluations lie at equal distances "
      "and the last step ends at the sample itself.", unset="published", choices=("published", "full"))
  temperature: float | None = setting(
      float, "Factor on all noise, from 0 to 2: the noise that a set begins with, and the noise that diffusion steps "
      "add.", unset=_OWN, low=0, high=2)
  last_temperature: float | None = setting(
      float, "Factor on the noise of the last frame, towards which it goes frame by frame.",
      unset="`temperature` throughout", low=0, high=2)
  history_noise: float = setting(
      float, "Standard deviation of the noise that is put on the latents of earlier frames, given ones included, where "
      "later ones see them.", 0.0, unset="0", low=0, high=2)
  refresh_every: int | None = setting(
      int, "Number of sets from one full pass of the spatial encoder to the next. In between features are reused, "
      "which is faster and approximate.", unset="1, which is exact", low=1)
  guidance_scale: float | None = setting(
      float, "Scale of classifier-free guidance; 1 means no guidance.", unset=_OWN, label="Guidance")
  min_guidance_scale: float | None = setting(
      float, "Scale of guidance for the first set, from which it grows.", unset="`guidance_scale` throughout")
  guidance_trunc: float = setting(
      float, "Time of diffusion, from 0 to 1000, below which guidance ends.", 0.0, unset="0", low=0, high=1000)
  guidance_start: float = setting(
      float, "Time of diffusion, from 0 to 1000, above which there is no guidance yet.", 1000.0, unset="1000", low=0,
      high=1000)
  guidance_every: int | None = setting(
      int, "Number of sets from one unconditional pass of the spatial encoder to the next, a multiple of "
      "`refresh_every`. Above 1 is faster and approximate.", unset="1, which is exact", low=1)
  guidance_renorm: float = setting(
      float, "Factor, from 0 to 1, by which guided predictions may be shrunk at most, to the norm of the conditional "
      "one.", 1.0, unset="1, not at all", low=0, high=1)
  image_guidance_scale: float = setting(
      float, "Scale of guidance by earlier frames, apart from text; 0 means none.", 0.0, unset="0")
  flow_shift: float | None = setting(float, "Shift of the flow-matching sampler.", unset=_OWN)
  motion_flow: float | Sequence[float] | None = setting(
      float, "Motion score that the model is told; larger means more motion.", unset=_OWN, label="Motion",
      one_each=True)
  fps: float | Sequence[float] | None = setting(
      float, "Frames per second that the model is told and that files have.", unset=_OWN, low=MIN_FPS, high=MAX_FPS,
      one_each=True)
  seed: int | Sequence[int] = setting(
      int, "Seed of all randomness, from which each sample derives its own, or one seed for each sample.", 0, unset="0",
      scope="content", label="Seed", per_clip=True)
  order: Int[Array, "B N"] | None = setting(
      list, "Order itself in which tokens are generated, to reproduce a generation.", scope="array")
  noise: Noise | Float[Array, "F S B h w C"] | None = setting(
      list, "Noise of all generated frames and non-empty sets, to reproduce a generation.", scope="array")
  output: str = setting(
      str, 'Kind of the result: "pixels", or "latent" for latent frames.', "pixels", choices=("pixels", "latent"),
      scope="array")

  @classmethod
  def from_settings(cls, settings: Mapping[str, Any]) -> "Request":
    """Make a request from settings by name.

    Raises:
      UserError: an unknown name, with the nearest known one, or a value that no model can do.
    """
    for name in settings:
      if name not in SETTINGS:
        raise UserError(f"{name} is not a setting{did_you_mean(name, SETTINGS)}")
    return cls(**settings)

  def __post_init__(self):
    if self.negative_prompt is not None and self.negative_text_embeds is not None:
      raise UserError("give either negative_prompt or negative_text_embeds, not both")
    if sum(value is not None for value in (self.image, self.video, self.given)) > 1:
      raise UserError("give one of image, video and given")
    if self.is_edit and self.image is None and self.video is None:
      raise UserError("mask and outpaint_box: give the image or the video that they are about")
    if self.context_frames is not None and (self.video is None or self.is_edit):
      raise UserError(
          "context_frames: it says how much of a video is continued; give video, and no mask or outpaint_box")
    if self.order is not None and (self.token_order != "random" or self.later_token_order is not None):
      raise UserError("order: it is the order of tokens itself; leave out token_order and later_token_order")
    for name in ("prompt", "negative_prompt"):
      if (value := getattr(self, name)) is not None:
        if not _is_text(value):
          raise UserError(f"{name}: expected a text or several, got {shorten(value)}")
        _check_length(name, value)
    if (later := self.later_prompts) is not None and not (
        isinstance(later, Mapping) and all(map(is_whole, later)) and all(map(_is_text, later.values()))):
      raise UserError(
          f"later_prompts: expected texts by frame, such as {{8: 'a fox sits down'}}, got {shorten(later)}")
    for texts in (later or {}).values():
      _check_length("later_prompts", texts)
    for name, declared in SETTINGS.items():
      if (value := getattr(self, name)) is not None:
        declared.check(name, value)

  @property
  def is_edit(self) -> bool:
    """Whether a part of the given image or video is made anew."""
    return self.mask is not None or self.outpaint_box is not None


SETTINGS = declared_settings(Request)
DEFAULTS = {field.name: field.default for field in dataclasses.fields(Request)}
# Settings that name files, and settings in which clips that are generated together may differ.
FILES = tuple(name for name, declared in SETTINGS.items() if declared.names_file)
PER_CLIP = tuple(name for name, declared in SETTINGS.items() if declared.per_clip)


def check_seeds(seed: int | Sequence[int]) -> None:
  """Refuse a seed of more than 32 bits, or one that is no whole number."""
  for value in np.atleast_1d(np.asarray(seed, object)):
    if not is_whole(value) or not 0 <= value < 2**32:
      raise UserError(f"seed: expected 0 to {2**32 - 1}, got {value}")


def _check_length(name: str, texts: Texts) -> None:
  """Refuse a text that no file system, sheet or text encoder has room for."""
  for text in [texts] if isinstance(texts, str) else texts:
    try:
      size = len(text.encode())
    except UnicodeEncodeError as error:
      raise UserError(f"{name}: {text[:60]!r} is not valid Unicode: {error.reason}") from None
    if size > limits.CAPTION_BYTES:
      raise UserError(
          f"{name}: expected at most {limits.CAPTION_BYTES:,} bytes (limits.CAPTION_BYTES), got {len(text):,} letters: "
          f"{shorten(text)}")


def _is_text(value: Any) -> bool:
  return isinstance(value, str) or isinstance(value, (Sequence, np.ndarray)) and all(
      isinstance(text, str) for text in value)
