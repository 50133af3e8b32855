"""The clips that a run starts from, each decoded once: how long an edit is, the rate of its files, what is not used.

Pictures and masks are read before anything is made, so that one that can't be used is refused at once.
Invariant: what is kept is of the model's size, and no more than `limits.GIVEN_BYTES` of it; what was not used for the
longest time goes first, and is decoded again if need be.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nova_jax.media import readers
from nova_jax.media.readers import Clip
from nova_jax.pipeline.given_frames import open_latents, read_clip, unused
from nova_jax.pipeline.latent_files import is_latents
from nova_jax.pipeline.model_parts import ModelParts
from nova_jax.pipeline.prompts import naming
from nova_jax.pipeline.request import Request
from nova_jax.pipeline.resolve import check
from nova_jax.storage import as_path
from nova_jax.utils import limits


class GivenClips:
  """Reads clips for a model.

  Attributes:
    notes: a line for each clip of which something is not used.
  """

  def __init__(self, parts: ModelParts, limit: int = limits.GIVEN_BYTES):
    self.notes: list[str] = []
    self._parts, self._limit, self._kept = parts, limit, {}  # The last used one is the last.
    self._sound = set()  # Pictures and masks that can be used.

  def read(self, settings: Mapping[str, Any]) -> Clip:
    """Return what a clip with these settings starts from.

    Raises:
      UserError: its file can't be read; the text names it.
    """
    key = _key(settings)
    clip = self._kept.pop(key, None) or self._read(Request.from_settings(settings))
    self._kept[key] = clip
    while sum(kept.frames.nbytes for kept in self._kept.values()) > self._limit and len(self._kept) > 1:
      self._kept.pop(next(iter(self._kept)))
    return clip

  def _read(self, request: Request) -> Clip:
    check(request, self._parts)
    return read_clip(request, request.video, self._parts)

  def complete(self, clips: Sequence[Mapping[str, Any]], places: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return settings of clips with what their sources say: clips of one length and rate are generated together.

    Args:
      clips: their settings.
      places: where errors say that each stands.

    Raises:
      UserError: a video, picture or mask can't be read or used; the text names it.
    """
    completed = []
    for settings, place in itertools.zip_longest(clips, places, fillvalue=""):
      with naming(place):
        completed.append(self._complete(dict(settings)))
    return completed

  def _complete(self, settings: dict[str, Any]) -> dict[str, Any]:
    request = Request.from_settings(settings)
    if request.video is None:
      self._check_pictures(request, 1)
      return settings | ({"num_frames": 1} if request.is_edit and request.num_frames is None else {})
    if is_latents(request.video):
      check(request, self._parts)
      return settings | self._rate(request, open_latents(request.video, self._parts).fps)
    clip = self.read(settings)
    self._check_pictures(request, len(clip.frames))
    note = unused(request, request.video, clip)
    if note and note not in self.notes:
      self.notes.append(note)
    settings |= self._rate(request, clip.fps)
    if request.is_edit and request.num_frames is None:
      settings["num_frames"] = len(clip.frames)
      self._kept[_key(settings)] = clip
    return settings

  def _rate(self, request: Request, fps: float | None) -> dict[str, Any]:
    """Return the setting of the rate that a file gives, where there is none and the model takes one."""
    return {"fps": fps} if request.fps is None and fps is not None and self._parts.cfg.has_motion else {}

  def _check_pictures(self, request: Request, num_frames: int) -> None:
    """Refuse pictures and masks that generation would refuse, maybe hours later."""
    parts = self._parts
    for name, path in (("image", request.image), ("mask", request.mask)):
      key = name, path, num_frames
      if isinstance(path, (str, Path)) and key not in self._sound:
        if name == "image":
          readers.read_picture(path, (1, 1), parts.require_autoencoder(name).channels)
        else:
          readers.read_mask(path, parts.frame_size, num_frames)
        self._sound.add(key)


def _key(settings: Mapping[str, Any]) -> str:
  """Return what decides which frames are taken of a clip, and their size."""
  is_edit = settings.get("mask") is not None or settings.get("outpaint_box") is not None
  parts = ("outpaint_box", "num_frames") if is_edit else ("window", "context_frames")
  return json.dumps([str(as_path(settings["video"]).absolute()), is_edit, *map(settings.get, parts)])
