"""The result of a call of the pipeline: an array of pixels or latents that saves and shows itself."""

import base64
import html
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nova_jax import media
from nova_jax.pipeline.latent_files import LatentClips, write_latents
from nova_jax.utils.errors import UserError

SHOWN = 16  # Clips that a notebook shows.


class Clips(np.ndarray):
  """Clips [B, T, height, width, c] of uint8 pixels, or float32 latents [B, T, h, w, C]; a NumPy array.

  A clip `clips[0]` and a range `clips[2:4]` save and show themselves likewise. Whatever is computed from clips is a
  plain array.

  Attributes:
    fps: frames per second at which they are to be shown; None if the clips differ in it.
  """

  fps: float | None = None

  @classmethod
  def from_array(cls, array: np.ndarray, fps: float | None) -> "Clips":
    """Return an array as clips, without a copy."""
    clips = np.asarray(array).view(cls)
    clips.fps = fps
    return clips

  def __array_finalize__(self, source: Any) -> None:
    self.fps = getattr(source, "fps", None)

  def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
    return np.asarray(array)[()] if return_scalar else np.asarray(array)

  def save(self, path: str | Path, fps: float | None = None) -> list[Path]:
    """Write the clips, and return the files.

    Args:
      path: file to write. Its ending says what: .mp4, .gif or .webp for clips, .png for a picture, or for a contact
        sheet of clips, and .safetensors for latents. Several clips or pictures become files with numbers, `out-000.mp4`
        and so on; a contact sheet and latents are one file.
      fps: frames per second. Default: `fps` of the clips.

    Raises:
      UserError: an ending that is not known, or one that doesn't fit what the clips hold.
    """
    path, clips = Path(path), self._clips()
    kind = path.suffix.lower()
    if kind == ".safetensors":
      write_latents(path, LatentClips(clips, self.fps if fps is None else fps))
      return [path]
    if clips.dtype != np.uint8:
      raise UserError(f"{path}: these are latents; save them as .safetensors, or ask for pixels")
    if kind == ".png" and clips.shape[1] > 1:
      media.write_sheet(path, list(clips), [""] * len(clips))
      return [path]
    paths = [path] if len(clips) == 1 else [path.with_stem(f"{path.stem}-{i:03}") for i in range(len(clips))]
    for clip, one in zip(clips, paths, strict=True):
      if kind == ".png":
        media.write_png(one, clip[0])
      elif kind in _WRITERS:
        _WRITERS[kind](one, clip, self._rate(fps))
      else:
        raise UserError(f"{path}: expected an ending of {', '.join((*_WRITERS, '.png', '.safetensors'))}")
    return paths

  def _repr_html_(self) -> str | None:
    """Return the clips as moving pictures, for a notebook."""
    if self.dtype != np.uint8 or self.ndim not in (3, 4, 5):
      return None
    clips, images = self._clips(), []
    with tempfile.TemporaryDirectory() as folder:
      for clip in clips[:SHOWN]:
        path = Path(folder) / "clip.webp"
        media.write_webp(path, media.enlarge(clip), self.fps or 12)
        images.append(
            f'<img src="data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}" alt="a clip" '
            'style="height: 192px; margin: 2px; image-rendering: pixelated">')
    rest = f"<div>and {len(clips) - SHOWN} more</div>" if len(clips) > SHOWN else ""
    return f'<div title="{html.escape(repr(self))}">{"".join(images)}{rest}</div>'

  def __repr__(self) -> str:
    rate = "" if self.fps is None else f", {self.fps:g} frames a second"
    return f"Clips({' x '.join(map(str, self.shape))} {self.dtype}{rate})"

  def _rate(self, fps: float | None) -> float:
    rate = self.fps if fps is None else fps
    if rate is None:
      raise UserError("fps: these clips differ in their rate; save them one by one, each with its own fps")
    return rate

  def _clips(self) -> np.ndarray:
    """Return [B, T, height, width, c], also of a single clip or frame."""
    if self.ndim not in (3, 4, 5):
      raise UserError(f"expected clips, a clip or a frame, channels last, got an array of shape {self.shape}")
    return np.asarray(self).reshape((1,) * (5 - self.ndim) + self.shape)


_WRITERS = {".mp4": media.write_mp4, ".gif": media.write_gif, ".webp": media.write_webp}
