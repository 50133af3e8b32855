"""Footage: frames of a video, a picture or an array, upright and in order, each with its time.

Pictures are told from videos by what is in them, not by name. Videos are decoded by PyAV in one thread, since
there is one process a core, and a damaged frame is an error, never a concealed one.
Invariant: a footage's frames depend on its bytes alone.
"""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageOps

from nova_jax.data.cache.items import Cell, Piece, Unusable

_ANIMATED = ("GIF", "PNG", "WEBP")
_NEAR = 1e-4  # Seconds by which rounded times may be off.


@dataclasses.dataclass(frozen=True)
class Frame:
  """A frame as it is stored, and how it is meant to be seen.

  Attributes:
    time: at which it is shown, in seconds.
    image: its pixels.
    stretch: width of a pixel by its height.
    turns: quarter turns to the left that make it upright.
  """

  time: float
  image: av.VideoFrame
  stretch: float = 1.0
  turns: int = 0

  @property
  def shape(self) -> tuple[float, float]:
    """Height and width as it is meant to be seen."""
    height, width = self.image.height, self.image.width * self.stretch
    return (width, height) if self.turns % 2 else (height, width)


@dataclasses.dataclass(frozen=True)
class Footage:
  """Frames in order.

  Attributes:
    frames: to go through once.
    rate: frames a second; None if it isn't known, or it is a picture.
    still: whether it is a picture.
    num_frames: how many the file says there are; None if it doesn't.
  """

  frames: Iterator[Frame]
  rate: float | None = None
  still: bool = False
  num_frames: int | None = None


@contextlib.contextmanager
def open_footage(
    media: Piece | Cell | Mapping[str, Any], start: float | None = None, end: float | None = None
) -> Iterator[Footage]:
  """Open a clip or still, or the part of a clip between two times in seconds.

  Args:
    media: where it lies, or an example of a TFDS dataset.
    start: None for the beginning.
    end: None for the end.

  Raises:
    Unusable: it is neither.
    OSError, av.error.FFmpegError: it can't be read; also raised while going through the frames.
  """
  if isinstance(media, Mapping):
    footage = _of_arrays(media)
    yield dataclasses.replace(footage, frames=_between(footage.frames, start, end))
    return
  whole = isinstance(media, Piece) and media.size is None
  content = media.path if whole else media.read()
  if not (media.path.stat().st_size if whole else len(content)):
    raise Unusable("the file is empty")
  image = _picture(_file(content))
  if image is not None:
    yield Footage(iter([Frame(0.0, av.VideoFrame.from_ndarray(image, format="rgb24"))]), still=True)
    return
  with av.open(_file(content), metadata_errors="replace") as container:
    stream = next((s for s in container.streams.video if not s.disposition & s.disposition.attached_pic), None)
    if stream is None:
      raise Unusable("no video in it, only " + (", ".join(sorted({s.type for s in container.streams})) or "nothing"))
    if stream.codec_context is None:
      raise Unusable("there is no decoder for its codec")
    stream.thread_type = "NONE"
    stream.codec_context.options = {"err_detect": "explode"}
    rate = float(stream.average_rate or stream.guessed_rate or 0) or None
    if start:
      container.seek(int(start * av.time_base))
    frames = _between(_decode(container, stream, rate), start, end)
    yield Footage(frames, rate, num_frames=None if start or end else stream.frames or None)


def _file(content: Path | bytes) -> str | io.BytesIO:
  return str(content) if isinstance(content, Path) else io.BytesIO(content)


def _decode(container: av.container.InputContainer, stream: av.VideoStream, rate: float | None) -> Iterator[Frame]:
  stretch = float(stream.sample_aspect_ratio or 1) or 1.0
  time = 0.0
  for number, image in enumerate(container.decode(stream)):
    if image.is_corrupt:
      raise Unusable(f"frame {number} is damaged")
    # Some files have no times; then frames follow at the stream's rate.
    time = image.time if image.time is not None else time + (number > 0) / (rate or 25.0)
    yield Frame(time, image, stretch, round(image.rotation / 90) % 4)


def _between(frames: Iterator[Frame], start: float | None, end: float | None) -> Iterator[Frame]:
  for frame in frames:
    if end is not None and frame.time >= end - _NEAR:
      return
    if start is None or frame.time >= start - _NEAR:
      yield frame


def _picture(file: str | io.BytesIO) -> np.ndarray | None:
  """Return a picture's pixels, upright, on white where they are transparent; None if it isn't one, or moves."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Of what Pillow sees past, such as damaged notes on the camera.
    return _upright(file)


def _upright(file: str | io.BytesIO) -> np.ndarray | None:
  try:
    image = Image.open(file)
  except Image.UnidentifiedImageError:
    return None
  with image:
    if image.format in _ANIMATED and getattr(image, "is_animated", False):
      return None
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits.
      image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
      image = image.convert("RGBA")
      image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _of_arrays(example: Mapping[str, Any]) -> Footage:
  still = "video" not in example
  pixels = np.asarray(example["image"][None] if still else example["video"])
  if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not pixels.size:
    raise Unusable(f"expected uint8 pixels with 1 or 3 channels, got {pixels.dtype} {pixels.shape}")
  rate = None if still or "fps" not in example else float(example["fps"])
  pixels = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))
  images = (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in pixels)
  return Footage((Frame(i / (rate or 25.0), image) for i, image in enumerate(images)), rate, still)
