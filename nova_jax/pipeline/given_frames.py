"""Frames and tokens that a generation starts from.

  image, video               → the first latent frames are given; all of them condition the rest
  video of latents           → the same, without an autoencoder
  image, video + mask or outpaint_box
                             → tokens whose pixels are all known are kept, and lead the order in which sets are written
Invariant: pixels outside a mask are those of the picture, bit for bit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from nova_jax.autoencoders import Autoencoder
from nova_jax.autoencoders.streaming import frames_for_latent
from nova_jax.config import ModelConfig
from nova_jax.media import readers
from nova_jax.pipeline.latent_files import LatentClips, check_autoencoder, is_latents, read_latents
from nova_jax.pipeline.model_parts import ModelParts
from nova_jax.pipeline.prompts import naming
from nova_jax.pipeline.request import Request
from nova_jax.sampling.inputs import KnownTokens
from nova_jax.utils.arrays import AnyArray
from nova_jax.utils.errors import UserError
from nova_jax.utils.notes import tell


class Givens(NamedTuple):
  """Frames that clips start from; B is one or the number of clips. All is None if nothing is given.

  Attributes:
    prefix_latents: first latent frames.
    known_tokens: tokens of an edit that are kept.
    pixels: frames of an edit.
    kept_mask: pixels of an edit that are kept.
    fps: frames per second of the files; NaN where it isn't known.
  """

  prefix_latents: Float[AnyArray, "B G h w C"] | None = None
  known_tokens: KnownTokens | None = None
  pixels: UInt8[np.ndarray, "B F height width c"] | None = None
  kept_mask: Bool[np.ndarray, "F height width"] | None = None
  fps: Float[np.ndarray, "B"] | None = None

  def keep(
      self, frames: UInt8[np.ndarray, "B f height width c"], first: int
  ) -> UInt8[np.ndarray, "B f height width c"]:
    """Return frames, of which the first is frame `first` of the clip, with the pixels that are kept."""
    if self.kept_mask is None or self.pixels is None or first >= len(self.kept_mask):
      return frames
    there = slice(first, first + frames.shape[1])
    mask, pixels = self.kept_mask[there, :, :, None], self.pixels[:, there]
    kept = np.where(mask, pixels, frames[:, : len(mask)])
    return np.concatenate([kept, frames[:, len(mask):]], axis=1)


def list_sources(request: Request) -> list[Any]:
  """Return the pictures or clips of a request, one by one."""
  source = request.video if request.image is None else request.image
  if source is None:
    return []
  ndim = 3 if request.video is None else 4
  if isinstance(source, np.ndarray) and source.ndim == ndim + 1 or isinstance(source, (list, tuple)):
    if not len(source):
      raise UserError(f"{_name(request)}: expected at least one")
    return list(source)
  return [source]


def read_givens(request: Request, parts: ModelParts) -> Givens:
  """Read what a request starts from.

  Raises:
    UserError: a file or an array that is no picture or video of a kind that the model can take.
  """
  things = list_sources(request)
  if not things:
    try:
      return Givens(None if request.given is None else np.asarray(request.given, np.float32))
    except (TypeError, ValueError):
      raise UserError("given: expected latents [B, T, h, w, C] as one array of numbers") from None
  if request.video is not None and any(map(is_latents, things)):
    return _read_latents(things, parts)
  autoencoder = _autoencoder(request, parts)
  if request.image is not None:
    size = _size(request, parts)
    clips = [readers.Clip(readers.read_picture(thing, size, autoencoder.channels)[None]) for thing in things]
  else:
    clips = [read_clip(request, thing, parts) for thing in things]
  for thing, clip in zip(things, clips, strict=True):
    if note := unused(request, thing, clip):
      tell(note)
  fps = np.array([np.nan if clip.fps is None else clip.fps for clip in clips])
  num_frames = min(len(clip.frames) for clip in clips)  # As many as the shortest has.
  if request.is_edit:
    pixels = np.stack([clip.frames[:num_frames] for clip in clips])
    return _edit(request, parts, pixels)._replace(fps=fps)
  pixels = np.stack([clip.frames[-num_frames:] for clip in clips])
  return Givens(np.asarray(autoencoder.encode(pixels)), fps=fps)


def _read_latents(things: Sequence[Any], parts: ModelParts) -> Givens:
  """Return what is given of files of latents: all of each."""
  if not all(map(is_latents, things)):
    raise UserError("video: expected files of latents for all clips, or for none")
  files = [open_latents(thing, parts) for thing in things]
  if len({file.latents.shape[1] for file in files}) > 1:
    raise UserError("video: clips of latents that are continued together must be of one length")
  fps = np.repeat([np.nan if file.fps is None else file.fps for file in files], [len(file.latents) for file in files])
  return Givens(np.concatenate([file.latents for file in files]), fps=fps)


def open_latents(path: str | Path, parts: ModelParts) -> LatentClips:
  """Read a file of latents that a clip of a model continues.

  Raises:
    UserError: it can't be read, or holds latents of another size or another autoencoder.
  """
  with naming("video"):
    clips, expected = read_latents(path), (*parts.cfg.latent_size, parts.cfg.latent_dim)
    if clips.latents.shape[2:] != expected:
      raise UserError(f"{path}: this model's latents are {expected}, these {clips.latents.shape[2:]}")
    if parts.autoencoder is not None:
      check_autoencoder(path, clips, parts.autoencoder)
      if clips.num_frames is not None and parts.num_shown_frames(clips.latents.shape[1]) > clips.num_frames:
        clips = clips._replace(latents=clips.latents[:, :-1])  # The last one stands for frames that aren't there.
    if not clips.latents.shape[1]:
      raise UserError(f"{path}: its frames are too few for a latent")
  return clips


def read_clip(request: Request, thing: Any, parts: ModelParts) -> readers.Clip:
  """Read what a request takes of a clip: an edit its beginning, a continuation its end.

  A continuation takes as many frames as a whole number of latents has.
  """
  autoencoder = _autoencoder(request, parts)
  size, channels = _size(request, parts), autoencoder.channels
  if request.is_edit:
    return readers.open_clip(thing, size, channels, first=request.num_frames)
  num_frames = autoencoder.num_frames(parts.max_given(request))
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


def check_givens(request: Request, parts: ModelParts, num_latents: int) -> None:
  """Refuse what `read_givens` would, as far as settings alone tell.

  Args:
    request: settings, with an image or a video.
    parts: model.
    num_latents: latent frames of the clip.
  """
  name, size = _name(request), parts.frame_size
  if name == "video" and any(map(is_latents, list_sources(request))):
    if request.is_edit or request.context_frames is not None:
      raise UserError("video: latents are continued, all of them; for an edit, or a part, decode them to a video first")
  else:
    _autoencoder(request, parts)
  if request.outpaint_box is not None:
    box = readers.check_box(request.outpaint_box, size, "outpaint_box")
    if request.mask is None and box == (0, 0, *size):
      raise UserError("outpaint_box: the box is the whole frame, it leaves nothing to make")
  if isinstance(request.mask, Sequence) and not isinstance(request.mask, str):
    readers.check_box(request.mask, size, "mask")
  if not request.is_edit and name == "video" and parts.max_given(request) < 1:
    raise UserError("video: this model makes single pictures, it can't continue a clip")
  if not request.is_edit and num_latents == 1:
    raise UserError(
        f"num_frames: given frames count, too, so none is left to make of {num_latents}; ask for more, or give mask "
        f"or outpaint_box to make a part of the {name} anew")


def _name(request: Request) -> str:
  return "video" if request.image is None else "image"


def _autoencoder(request: Request, parts: ModelParts) -> Autoencoder:
  return parts.require_autoencoder(_name(request))


def _size(request: Request, parts: ModelParts) -> tuple[int, int]:
  """Return height and width of what is given: of a frame, or of the box it is put in."""
  if request.outpaint_box is None:
    return parts.frame_size
  top, left, bottom, right = readers.check_box(request.outpaint_box, parts.frame_size, "outpaint_box")
  return bottom - top, right - left


def _edit(request: Request, parts: ModelParts, pixels: UInt8[np.ndarray, "B F height width c"]) -> Givens:
  """Return what is given of pictures or clips of which a part is made anew."""
  num_frames, size, autoencoder = pixels.shape[1], parts.frame_size, _autoencoder(request, parts)
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
  known = np.stack([
      ~_any_of(unknown[list(frames_for_latent(autoencoder, t))], parts.cfg, autoencoder.spatial_stride)
      for t in range(latents.shape[1])])
  return Givens(known_tokens=KnownTokens(latents, known), pixels=pixels, kept_mask=~unknown)


def _any_of(mask: Bool[np.ndarray, "f height width"], cfg: ModelConfig, stride: int) -> Bool[np.ndarray, "N"]:
  """Return for each token whether any of its pixels is in the mask."""
  side = cfg.patch_size * stride
  rows, columns = cfg.image_grid
  return mask.reshape(len(mask), rows, side, columns, side).any(axis=(0, 2, 4)).reshape(-1)
