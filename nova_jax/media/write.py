"""Writes clips as files to view: MP4 and PNG; `animations` writes GIF and WebP, `sheets` contact sheets.

Each file can hold a note on how it was made. Clips are uint8 [T, height, width, C] with one channel (grey) or three.
Small clips are enlarged by integer factors, so that pixels stay square.
Invariant: files are written atomically, and the same clip and note always give the same bytes.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from nova_jax.media.formats import open_container, open_content, open_picture, reading
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import replacing, write_atomically

SHORT_SIDE = 128  # Smallest short side in pixels, to which clips are enlarged.
NOTE = "nova_jax"  # Key of the text in a PNG.
DESCRIPTION = 270  # EXIF tag ImageDescription.

Clip = UInt8[np.ndarray, "T height width C"]


def enlarge(clip: Clip, short_side: int = SHORT_SIDE) -> UInt8[np.ndarray, "T height width 3"]:
  """Return the clip in colour, each pixel repeated until the short side has at least `short_side` pixels."""
  factor = -(-short_side // min(clip.shape[1:3]))
  clip = clip.repeat(factor, axis=1).repeat(factor, axis=2)
  return np.broadcast_to(clip, (*clip.shape[:3], 3))


def write_png(
    path: str | Path, frame: UInt8[np.ndarray, "height width C"], short_side: int = SHORT_SIDE, note: str = ""
) -> None:
  """Write a frame as a PNG, enlarged if it is small."""
  save_png(path, Image.fromarray(enlarge(frame[None], short_side)[0]), note)


def tile(clips: Sequence[Clip], columns: int) -> Clip:
  """Arrange clips of one shape in a grid, row by row and one pixel apart."""
  margins = (0, -len(clips) % columns), (0, 0), (0, 1), (0, 1), (0, 0)
  return rearrange(np.pad(np.stack(clips), margins, constant_values=96), "(r c) t h w d -> t (r h) (c w) d", c=columns)


def write_mp4(
    path: str | Path, clip: Clip, fps: float, short_side: int = SHORT_SIDE, note: str = ""
) -> None:
  """Write an H.264 video that browsers play; its bytes don't depend on the number of cores."""
  with growing_mp4(path, fps, short_side, note) as add:
    add(clip)


@contextlib.contextmanager
def growing_mp4(
    path: str | Path, fps: float, short_side: int = SHORT_SIDE, note: str = ""
) -> Generator[Callable[[Clip], None]]:
  """Open an H.264 video for writing, and yield a function that appends frames without keeping them."""
  with replacing(path) as temporary, av.open(str(temporary), "w") as container:
    if note:
      container.metadata["comment"] = note
    # The number of threads changes the bytes, and for some clips x264's macroblock tree varies between runs.
    options = {"crf": "12", "threads": "1", "x264-params": "mbtree=0"}
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
    stream.pix_fmt = "yuv420p"

    def add(clip: Clip) -> None:
      for frame in enlarge(clip, short_side):
        # 4:2:0 halves the resolution of colours, so the last row and column are repeated if sizes are odd.
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), "edge")
        if not stream.codec_context.is_open:
          stream.height, stream.width = frame.shape[:2]
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))

    yield add
    container.mux(stream.encode())


def read_note(path: str | Path) -> str:
  """Return the note that a file holds.

  Raises:
    UserError: the file can't be read, or has no note.
  """
  with reading(str(path)), open_content(path) as content:
    image = open_picture(content)
    if image is None:
      with open_container(content) as container:
        note = container.metadata.get("comment")
    else:
      with image:
        comment = image.info.get("comment")
        note = image.info.get(NOTE) or (image.getexif().get(DESCRIPTION) if image.format == "WEBP" else comment)
  if isinstance(note, bytes):
    note = note.decode(errors="replace")
  if not isinstance(note, str) or not note:
    raise UserError(f"{path} doesn't say how it was made")
  if len(note) > limits.NOTE_BYTES:
    raise UserError(f"{path}: what it says of how it was made is longer than NOTE_BYTES, {limits.NOTE_BYTES:,}")
  return note


def save_png(path: str | Path, image: Image.Image, note: str) -> None:
  """Write a picture as a PNG with a note, without enlarging it."""
  info = PngImagePlugin.PngInfo()
  if note:
    info.add_text(NOTE, note)
  write_atomically(path, lambda path: image.save(path, pnginfo=info))
