"""Contact sheets: clips as one picture, a clip a row under its caption, a frame a column.

Invariant: a page has a largest size, whatever is put on it. Frames are made smaller first, down to `SMALLEST`; then
frames are left out evenly, which the caption says; then clips, which the last line counts.
"""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nova_jax.media.formats import content_of, reading, require_picture
from nova_jax.media.pictures import read_picture
from nova_jax.media.write import Clip, enlarge, save_png

MARGIN = 4
TEXT_HEIGHT = 14
SMALLEST = 128  # The short side of a frame that is made smaller, in pixels.
PAGE_WIDTH = 32_000  # Pixels; viewers and browsers show no wider pictures.
PAGE_PIXELS = 64_000_000  # Pillow warns of pictures of more than 89 million.
LEAST_WIDTH = 4000  # Pixels of a page's width that frames have even if clips must be left out for them.
CAPTION_WIDTH = 1600  # Pixels that a caption may widen a page to.
_CAPTION_LETTERS = 2000  # Of a caption that are looked at: more don't fit on any page.
# Where Pillow's own font has no letter for a caption. Matplotlib brings the first; the others are of operating systems.
_FONTS = (
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc", "Arial Unicode.ttf")


class _Row(NamedTuple):
  """A clip on a page."""

  frames: list[int]  # Those that are shown.
  height: int  # Of a frame.
  width: int


def write_sheet(
    path: str | Path, clips: Sequence[Clip], captions: Sequence[str], short_side: int = 64, note: str = ""
) -> None:
  """Write clips as a PNG.

  Args:
    path: of the file.
    clips: of any sizes.
    captions: one for each; what is too long for a line is cut.
    short_side: pixels that small frames are enlarged to, at least.
    note: of how it was made.
  """
  rows = _plan([_shape(clip, short_side) for clip in clips])
  lines = [_line(caption, row, len(clip)) for caption, row, clip in zip(captions, rows, clips, strict=True)]
  width = max(len(row.frames) * (row.width + MARGIN) for row in rows) + MARGIN
  lines = [_cut(line, max(width, CAPTION_WIDTH)) for line in lines]
  width = max(width, *(round(_font(line).getlength(line)) + 2 * MARGIN for line in lines))
  bottoms = np.cumsum([row.height + TEXT_HEIGHT + MARGIN for row in rows]) + MARGIN
  count = len(rows)
  if bottoms[-1] * width > PAGE_PIXELS:  # The last line needs room, too.
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
  """Write sheets from files as one PNG, one below the other, all smaller if a page has no room for them."""
  sizes = list(map(_size_of, pictures))
  width, height = max(width for width, _ in sizes), sum(height for _, height in sizes)
  scale = min(1, PAGE_WIDTH / width, (PAGE_PIXELS / (width * height)) ** 0.5)
  sizes = [(max(1, int(width * scale)), max(1, int(height * scale))) for width, height in sizes]
  stack, y = Image.new("RGB", (max(width for width, _ in sizes), sum(height for _, height in sizes)), "white"), 0
  for picture, size in zip(pictures, sizes, strict=True):
    shown = Image.fromarray(read_picture(picture))
    stack.paste(shown if shown.size == size else shown.resize(size, Image.Resampling.BOX), (0, y))
    y += size[1]
  save_png(path, stack, "")


def _size_of(path: str | Path) -> tuple[int, int]:
  """Return width and height of a picture."""
  with reading(str(path)), content_of(path) as content:
    return require_picture(content).size


def _shape(clip: Clip, short_side: int) -> tuple[int, int, int]:
  """Return frames, height and width of an enlarged clip."""
  return (len(clip), *enlarge(clip[:1], short_side).shape[1:3])


def _plan(shapes: Sequence[tuple[int, int, int]]) -> list[_Row]:
  """Choose the size and the frames that are shown of each clip."""
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
  """Return a caption in one line, which says so if some frames are not shown."""
  caption = " ".join(caption[:_CAPTION_LETTERS].encode(errors="replace").decode().split())
  return caption if len(row.frames) == num_frames else f"[{len(row.frames)} of {num_frames} frames] {caption}"


def _cut(line: str, width: int) -> str:
  """Return as much of a line as fits."""
  font = _font(line)
  if font.getlength(line) <= width:
    return line
  low, high = 0, len(line)
  while high - low > 1:  # The longest beginning that fits.
    middle = (low + high) // 2
    low, high = (middle, high) if font.getlength(line[:middle] + "…") <= width else (low, middle)
  return line[:low] + "…"


@functools.lru_cache(maxsize=256)
def _font(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  """Return the first font that has every letter of a text; Pillow's own if none has."""
  own = ImageFont.load_default()
  for font in (own, *map(_load, _FONTS)):
    if font is not None and all(map(functools.partial(_has, font), set(text))):
      return font
  return _load(_FONTS[0]) or own


@functools.cache
def _load(name: str) -> ImageFont.FreeTypeFont | None:
  matplotlib = importlib.util.find_spec("matplotlib")
  folders = matplotlib.submodule_search_locations if matplotlib else []
  # A bare name is looked for where the system has its fonts.
  for place in (*(Path(folder) / "mpl-data/fonts/ttf" / name for folder in folders), name):
    try:
      return ImageFont.truetype(str(place), 10)
    except OSError:
      pass
  return None


def _has(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letter: str) -> bool:
  """Whether a font has a letter: what it lacks looks like what no font has."""
  return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask("\U0010fffe"))
