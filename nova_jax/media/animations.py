"""Writes clips as GIF and WebP, with one frame in the file for each frame of the clip.

Pillow and the WebP library below it merge equal frames into one that is shown for longer, so the number of frames would
be lost. The files are therefore assembled here. Each frame is stored as the box that differs from the previous frame,
at least one pixel, which Pillow compresses.
Invariants: frames begin at the times that the rate gives, rounded down to the unit of the format (GIF: 1/100 s, WebP:
1/1000 s). Browsers show frames shorter than 2/100 s in a GIF or 11/1000 s in a WebP for 1/10 s, so rates are limited to
50 and 90 frames per second.
"""

import io
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from nova_jax.media.write import DESCRIPTION, SHORT_SIDE, Clip, enlarge
from nova_jax.utils.files import write_atomically

_GIF_FPS = 50
_WEBP_FPS = 90
# Flags of WebP's chunks VP8X and ANMF.
_MOVES, _HAS_EXIF, _REPLACES = 0x02, 0x08, 0x02


def write_gif(path: str | Path, clip: Clip, fps: float, short_side: int = SHORT_SIDE, note: str = "") -> None:
  """Write a GIF that loops forever."""
  times = _times(len(clip), min(fps, _GIF_FPS), 100)
  info = {"loop": 0} | ({"comment": note.encode()} if note else {})

  def write(path: Path) -> None:
    with path.open("wb") as file:
      for (left, top, frame), time in zip(_changes(clip, short_side), times, strict=True):
        frame = frame.convert("P", palette=Image.Palette.ADAPTIVE)
        first = not file.tell()
        if first:
          file.writelines(GifImagePlugin.getheader(frame, info=info)[0])
        file.writelines(GifImagePlugin.getdata(
            frame, (left, top), duration=10 * time, include_color_table=not first))
      file.write(b";")

  write_atomically(path, write)


def write_webp(path: str | Path, clip: Clip, fps: float, note: str = "") -> None:
  """Write a lossless WebP, which is animated if the clip has several frames."""
  exif = Image.Exif()
  if note:
    exif[DESCRIPTION] = note
  if len(clip) == 1:
    frame = Image.fromarray(enlarge(clip)[0])
    write_atomically(path, lambda path: frame.save(path, "WEBP", lossless=True, exif=exif))
    return
  height, width = enlarge(clip[:1]).shape[1:3]
  flags = _MOVES | (_HAS_EXIF if note else 0)
  chunks = [
      _chunk(b"VP8X", struct.pack("<I", flags) + _three_bytes(width - 1) + _three_bytes(height - 1)),
      _chunk(b"ANIM", bytes(6))]  # No background, endless loop.
  times = _times(len(clip), min(fps, _WEBP_FPS), 1000)
  for (left, top, frame), time in zip(_changes(clip, SHORT_SIDE), times, strict=True):
    still = io.BytesIO()
    frame.save(still, "WEBP", lossless=True)
    place = (left // 2, top // 2, frame.width - 1, frame.height - 1, time)
    chunks.append(_chunk(b"ANMF", b"".join(map(_three_bytes, place)) + bytes([_REPLACES]) + still.getvalue()[12:]))
  if note:
    chunks.append(_chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\0\0")))
  write_atomically(path, _chunk(b"RIFF", b"WEBP" + b"".join(chunks)))


def _times(count: int, fps: float, unit: int) -> list[int]:
  """Return the duration of each of `count` frames in whole units, of which there are `unit` per second."""
  starts = [int(i * unit / fps + 1e-6) for i in range(count + 1)]
  return [end - start for start, end in itertools.pairwise(starts)]


def _changes(clip: Clip, short_side: int) -> Iterator[tuple[int, int, Image.Image]]:
  """Yield, for each frame, the left and top edge (both even) of the box that changes, and its content."""
  before = None
  for frame in clip:
    frame = Image.fromarray(np.ascontiguousarray(enlarge(frame[None], short_side)[0]))
    left, top, right, bottom = (0, 0, *frame.size) if before is None else (
        ImageChops.difference(before, frame).getbbox() or (0, 0, 1, 1))
    left, top = left // 2 * 2, top // 2 * 2  # WebP stores positions in units of two pixels.
    yield left, top, frame.crop((left, top, right, bottom))
    before = frame


def _chunk(name: bytes, content: bytes) -> bytes:
  return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _three_bytes(value: int) -> bytes:
  return value.to_bytes(3, "little")
