"""Contact sheets: clips as one picture, with a row per clip below its caption and a column per frame.

Invariant: the size of a page is bounded. Frames are first made smaller, down to `SMALLEST`. Then frames are omitted
evenly, which the caption says, and finally clips, which the last line counts.
"""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nova_jax.media.formats import open_content, reading, require_picture
from nova_jax.media.pictures import read_picture
from nova_jax.media.write import Clip, enlarge, save_png

MARGIN = 4
TEXT_HEIGHT = 14
SMALLEST = 128  # Smallest short side in pixels that frames are reduced to.
PAGE_WIDTH = 32_000  # Pixels; viewers and browsers don't show wider pictures.
PAGE_PIXELS = 64_000_000  # Pillow warns from 89 million on.
LEAST_WIDTH = 4000  # Width in pixels that frames keep, even if clips must be omitted.
CAPTION_WIDTH = 1600  # Largest width in pixels to which captions widen a page.
_CAPTION_LETTERS = 2000  # Characters of a caption that are used, since no page has room for more.
# Fonts for letters that Pillow's font lacks. Matplotlib has the first one; the others come with operating systems.
_FONTS = (
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc", "Arial Unicode.ttf")


class _Row(NamedTuple):
  """A clip on a page."""

  frames: list[int]  # Numbers of the frames that are shown.
  height: int  # Height of a frame.
  width: int


def write_sheet(
    path: str | Path, clips: Sequence[Clip], captions: Sequence[str], short_side: int = 64, note: str = ""
) -> None:
  """Write clips as a PNG.

  Args:
    path: path of the file.
    clips: clips of any sizes.
    captions: one caption per clip; long ones are truncated to a line.
    short_side: smallest short side in pixels, to which frames are enlarged.
    note: text to store on how the picture was made.
  """
  rows = _plan([_shape(clip, short_side) for clip in clips])
  lines = [_line(caption, row, len(clip)) for caption, row, clip in zip(captions, rows, clips, strict=True)]
  width = max(len(row.frames) * (row.width + MARGIN) for row in rows) + MARGIN
  lines = [_cut(line, max(width, CAPTION_WIDTH)) for line in lines]
  width = max(width, *(round(_font(line).getlength(line)) + 2 * MARGIN for line in lines))
  bottoms = np.cumsum([row.height + TEXT_HEIGHT + MARGIN for row in rows]) + MARGIN
  count = len(rows)
  if bottoms[-1] * width > PAGE_PIXELS:  # Keeps room for the last line.
    count = max(1, int(np.searchsorted(bottoms, PAGE_PIXELS // width - TEXT_HEIGHT, side="right")))
  left_out = len(rows) - count
  sheet = Image.new("RGB", (width, int(bottoms[count - 1]) + TEXT_HEIGHT * bool(left_out)), "white")
  pen, y = ImageDraw.Draw(sheet), MARGIN
  for row, line, clip in zip(rows[:count], lines[:count], clips[:count], strict=True):
    pen.text((MARGIN, y), line, fill="black", font=_font(line))
    y += TEXT_HEIGHT
    for column, i in enumerate(row.frames):
      frame = Image.fromarray(enlarge(clip[i : i + 1], short_side)[0])
      if frame.size != (row.width, row.height):
        frame = frame.resize((row.width, row.height), Image.Resampling.LANCZOS)
      sheet.paste(frame, (MARGIN + column * (row.width + MARGIN), y))
    y += row.height + MARGIN
  if left_out:
    pen.text((MARGIN, y), f"… and {left_out} more", fill="black")
  save_png(path, sheet, note)


def write_stack(path: str | Path, pictures: Sequence[str | Path]) -> None:
  """Write the pictures of several files below each other as one PNG, reduced if a page has no room for them."""
  sizes = list(map(_read_size, pictures))
  width, height = max(width for width, _ in sizes), sum(height for _, height in sizes)
  scale = min(1, PAGE_WIDTH / width, (PAGE_PIXELS / (width * height)) ** 0.5)
  sizes = [(max(1, int(width * scale)), max(1, int(height * scale))) for width, height in sizes]
  stack, y = Image.new("RGB", (max(width for width, _ in sizes), sum(height for _, height in sizes)), "white"), 0
  for picture, size in zip(pictures, sizes, strict=True):
    shown = Image.fromarray(read_picture(picture))
    stack.paste(shown if shown.size == size else shown.resize(size, Image.Resampling.BOX), (0, y))
    y += size[1]
  save_png(path, stack, "")


def _read_size(path: str | Path) -> tuple[int, int]:
  """Return width and height of the picture in a file."""
  with reading(str(path)), open_content(path) as content:
    return require_picture(content).size


def _shape(clip: Clip, short_side: int) -> tuple[int, int, int]:
  """Return the number of frames, height and width of an enlarged clip."""
  return (len(clip), *enlarge(clip[:1], short_side).shape[1:3])


def _plan(shapes: Sequence[tuple[int, int, int]]) -> list[_Row]:
  """Choose the size and the frames to show for each clip."""
  scale, largest = 1.0, max(min(height, width) for _, height, width in shapes)
  while True:
    sizes = []
    for _, height, width in shapes:
      own = max(scale, min(1, SMALLEST / min(height, width)))
      sizes.append((max(1, int(height * own)), max(1, int(width * own))))
    down = MARGIN + sum(height + TEXT_HEIGHT + MARGIN for height, _ in sizes)
    across = MARGIN + max(frames * (width + MARGIN) for (frames, _, _), (_, width) in zip(shapes, sizes, strict=True))
    if across <= PAGE_WIDTH and across * down <= PAGE_PIXELS or scale * largest <= SMALLEST:
      break
    scale *= 0.95
  room = min(PAGE_WIDTH, max(LEAST_WIDTH, PAGE_PIXELS // down))
  counts = [max(1, (room - MARGIN) // (width + MARGIN)) for _, width in sizes]
  return [
      _Row(np.linspace(0, frames - 1, min(frames, count)).round().astype(int).tolist(), *size)
      for (frames, _, _), count, size in zip(shapes, counts, sizes, strict=True)]


def _line(caption: str, row: _Row, num_frames: int) -> str:
  """Return a caption in one line, which says whether frames are omitted."""
  caption = " ".join(caption[:_CAPTION_LETTERS].encode(errors="replace").decode().split())
  return caption if len(row.frames) == num_frames else f"[{len(row.frames)} of {num_frames} frames] {caption}"


def _cut(line: str, width: int) -> str:
  """Return a line truncated to a width in pixels."""
  font = _font(line)
  if font.getlength(line) <= width:
    return line
  low, high = 0, len(line)
  while high - low > 1:  # Bisection for the longest prefix that fits.
    middle = (low + high) // 2
    low, high = (middle, high) if font.getlength(line[:middle] + "…") <= width else (low, middle)
  return line[:low] + "…"


@functools.lru_cache(maxsize=256)
def _font(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  """Return the first font that has every letter of a text; Pillow's font if none does."""
  own = ImageFont.load_default()
  for font in (own, *map(_load, _FONTS)):
    if font is not None and all(map(functools.partial(_has, font), set(text))):
      return font
  return _load(_FONTS[0]) or own


@functools.cache
def _load(name: str) -> ImageFont.FreeTypeFont | None:
  matplotlib = importlib.util.find_spec("matplotlib")
  folders = (matplotlib.submodule_search_locations if matplotlib else None) or []
  # Pillow looks for a bare name in the system's font folders.
  for place in (*(Path(folder) / "mpl-data/fonts/ttf" / name for folder in folders), name):
    try:
      return ImageFont.truetype(str(place), 10)
    except OSError:
      pass
  return None


def _has(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letter: str) -> bool:
  """Return whether a font has a letter, which then looks different from a letter that no font has."""
  return letter.isspace() or _mask(font, letter) != _mask(font, "\U0010fffe")


def _mask(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letter: str) -> bytes:
  return bytes(font.getmask(letter))  # ty: ignore[invalid-argument-type] (iterable, Pillow's types don't say so)
