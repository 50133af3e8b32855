"""What a generation starts from: frames that are given, or tokens that are known.

  image, video               → the first latent frames are given; all of them condition the rest
  image, video + mask or outpaint_box
                             → tokens whose pixels are all known are kept, and lead the order in which sets are written
Invariant: pixels outside a mask are those of the picture, bit for bit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from nova_jax.autoencoders import Autoencoder
from nova_jax.autoencoders.streaming import frames_for_latent
from nova_jax.config import ModelConfig
from nova_jax.media import readers
from nova_jax.pipeline.request import Request
from nova_jax.sampling.sampler import Known
from nova_jax.utils.errors import UserError
from nova_jax.utils.notes import tell


class Start(NamedTuple):
  """What is there before generation; B is one or the number of clips. Empty if nothing is."""

  given: Float[Array, "B G h w C"] | None = None
  known: Known | None = None
  pixels: UInt8[np.ndarray, "B F height width c"] | None = None  # Of an edit.
  fixed: Bool[np.ndarray, "F height width"] | None = None  # Which of them are kept.
  fps: Float[np.ndarray, "B"] | None = None  # Of files that are continued or edited; NaN where it isn't known.

  def keep(
      self, frames: UInt8[np.ndarray, "B f height width c"], first: int
  ) -> UInt8[np.ndarray, "B f height width c"]:
    """Return frames, of which the first is frame `first` of the clip, with the pixels that are kept."""
    if self.fixed is None or first >= len(self.fixed):
      return frames
    there = slice(first, first + frames.shape[1])
    fixed, pixels = self.fixed[there, :, :, None], self.pixels[:, there]
    kept = np.where(fixed, pixels, frames[:, : len(fixed)])
    return np.concatenate([kept, frames[:, len(fixed):]], axis=1)


def sources_of(request: Request) -> list[Any]:
  """Return the pictures or clips of a request, one by one."""
  source = request.video if request.image is None else request.image
  if source is None:
    return []
  ndim = 3 if request.video is None else 4
  if isinstance(source, np.ndarray) and source.ndim == ndim + 1 or isinstance(source, (list, tuple)):
    if not len(source):
      raise UserError(f"{'video' if request.image is None else 'image'}: expected at least one")
    return list(source)
  return [source]


def read_start(request: Request, cfg: ModelConfig, autoencoder: Autoencoder | None, longest: int) -> Start:
  """Read what a request starts from.

  Args:
    request: the settings.
    cfg: the model.
    autoencoder: maps pixels to latents.
    longest: latent frames that may be given.
  """
  things = sources_of(request)
  if not things:
    return Start(given=None if request.given is None else np.asarray(request.given, np.float32))
  name = "video" if request.image is None else "image"
  if autoencoder is None:
    raise UserError(f"{name}: pictures need an autoencoder; load a folder that has one, or give latents")
  if name == "image":
    size = _size(request, cfg, autoencoder)
    clips = [readers.Clip(readers.read_picture(thing, size, autoencoder.channels)[None]) for thing in things]
  else:
    clips = [read_clip(request, thing, cfg, autoencoder, longest) for thing in things]
  for thing, clip in zip(things, clips, strict=True):
    if note := unused(request, thing, clip):
      tell(note)
  fps = np.array([np.nan if clip.fps is None else clip.fps for clip in clips])
  num_frames = min(len(clip.frames) for clip in clips)  # As many as the shortest has.
  if request.is_edit:
    pixels = np.stack([clip.frames[:num_frames] for clip in clips])
    return _edit(request, cfg, autoencoder, pixels)._replace(fps=fps)
  pixels = np.stack([clip.frames[-num_frames:] for clip in clips])
  return Start(given=np.asarray(autoencoder.encode(pixels)), fps=fps)


def read_clip(
    request: Request, thing: Any, cfg: ModelConfig, autoencoder: Autoencoder, longest: int
) -> readers.Clip:
  """Read what a request takes of a clip: an edit its beginning, a continuation its end.

  A continuation takes as many frames as a whole number of latents has.
  """
  size, channels = _size(request, cfg, autoencoder), autoencoder.channels
  if request.is_edit:
    return readers.open_clip(thing, size, channels, first=request.num_frames)
  num_frames = autoencoder.num_frames(longest)
  clip = readers.open_clip(thing, size, channels, last=min(num_frames, request.context_frames or num_frames))
  latents = autoencoder.num_latent_frames(len(clip.frames))
  while autoencoder.num_frames(latents) > len(clip.frames):  # The last latent would stand for frames that aren't there.
    latents -= 1
  rest = len(clip.frames) - autoencoder.num_frames(latents)
  return clip._replace(frames=clip.frames[rest:], before=clip.before + rest)


def unused(request: Request, thing: Any, clip: readers.Clip) -> str:
  """Return a line on what is not used of a file; "" if all of it is."""
  if not isinstance(thing, (str, Path)):
    return ""
  if clip.before:
    return f"{thing}: its last {len(clip.frames)} frames are continued, the {clip.before} before them are not used"
  if clip.more:
    return f"{thing}: its first {len(clip.frames)} frames are edited (num_frames), those after them are not used"
  return ""


def check_start(
    request: Request, cfg: ModelConfig, autoencoder: Autoencoder | None, longest: int, num_frames: int
) -> None:
  """Refuse what `read_start` would, as far as settings alone tell.

  Args:
    request: the settings, with an image or a video.
    cfg: the model.
    autoencoder: maps pixels to latents.
    longest: latent frames that may be given.
    num_frames: latent frames of the clip.
  """
  name = "video" if request.image is None else "image"
  if autoencoder is None:
    raise UserError(f"{name}: pictures need an autoencoder; load a folder that has one, or give latents")
  size = tuple(side * autoencoder.spatial_stride for side in cfg.latent_size)
  if request.outpaint_box is not None:
    box = readers.check_box(request.outpaint_box, size, "outpaint_box")
    if request.mask is None and box == (0, 0, *size):
      raise UserError("outpaint_box: the box is the whole frame, it leaves nothing to make")
  if isinstance(request.mask, Sequence) and not isinstance(request.mask, str):
    readers.check_box(request.mask, size, "mask")
  if not request.is_edit and name == "video" and longest < 1:
    raise UserError("video: this model makes single pictures, it can't continue a clip")
  if not request.is_edit and num_frames == 1:
    raise UserError(
        f"num_frames: given frames count, too, so none is left to make of {num_frames}; ask for more, or give mask "
        f"or outpaint_box to make a part of the {name} anew")


def _size(request: Request, cfg: ModelConfig, autoencoder: Autoencoder) -> tuple[int, int]:
  """Return height and width of what is given: of a frame, or of the box it is put in."""
  size = tuple(side * autoencoder.spatial_stride for side in cfg.latent_size)
  if request.outpaint_box is None:
    return size
  top, left, bottom, right = readers.check_box(request.outpaint_box, size, "outpaint_box")
  return bottom - top, right - left


def _edit(
    request: Request, cfg: ModelConfig, autoencoder: Autoencoder, pixels: UInt8[np.ndarray, "B F height width c"]
) -> Start:
  """Return the start of pictures or clips of which a part is made anew."""
  num_frames, size = pixels.shape[1], tuple(side * autoencoder.spatial_stride for side in cfg.latent_size)
  unknown = np.zeros((num_frames, *size), bool)
  if request.outpaint_box is not None:
    box = readers.check_box(request.outpaint_box, size, "outpaint_box")
    pixels = np.stack([readers.paste(clip, box, size) for clip in pixels])
    unknown |= ~readers.read_mask(box, size, num_frames)
  if request.mask is not None:
    unknown |= readers.read_mask(request.mask, size, num_frames)
  if not unknown.any():
    raise UserError("outpaint_box: the box is the whole frame, it leaves nothing to make")
  # What is made anew must not reach the known latents around it.
  latents = np.asarray(autoencoder.encode(np.where(unknown[..., None], np.uint8(readers.FILL), pixels)))
  tokens = np.stack([
      ~_any_of(unknown[list(frames_for_latent(autoencoder, t))], cfg, autoencoder.spatial_stride)
      for t in range(latents.shape[1])])
  return Start(known=Known(latents, tokens), pixels=pixels, fixed=~unknown)


def _any_of(mask: Bool[np.ndarray, "f height width"], cfg: ModelConfig, stride: int) -> Bool[np.ndarray, "N"]:
  """Return for each token whether any of its pixels is in the mask."""
  side = cfg.patch_size * stride
  rows, columns = cfg.image_grid
  return mask.reshape(len(mask), rows, side, columns, side).any(axis=(0, 2, 4)).reshape(-1)
