"""Footage: the frames of a video, an animated picture or a still in order, with their times and display geometry.

Times are seconds from the beginning of the file, as in players. A part of a video has the same frames as if all were
decoded: a seek is used only if it lands on a complete picture at or before the start. PyAV decodes videos in one
thread, since there is one process per core. A damaged frame is an error and never concealed.
Invariant: frames depend only on the bytes of the file, and one of them is in memory at a time.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Generator, Iterator
from typing import BinaryIO

import av
import numpy as np
from PIL import Image

from nova_jax.media import moving, pictures, videos
from nova_jax.media.formats import File, name_for_errors, open_content, open_picture, reading
from nova_jax.media.frame import Frame

NEAR = 1e-4  # Largest rounding error of times in seconds.


@dataclasses.dataclass(frozen=True)
class Footage:
  """The frames of an open file in order.

  Attributes:
    frames: iterator over the frames, which can be used once.
    rate: frames per second; None if unknown, and for pictures.
    still: whether the file is a still picture.
    num_frames: number of frames according to the file; None if it does not say.
  """

  frames: Iterator[Frame]
  rate: float | None = None
  still: bool = False
  num_frames: int | None = None


@contextlib.contextmanager
def open_footage(
    file: File, start: float | None = None, end: float | None = None, name: str = "", background: str = "white"
) -> Generator[Footage]:
  """Open a video or a picture, or the part of a video between two times in seconds.

  Args:
    file: path, bytes, or open file.
    start: time to start at; None for the beginning.
    end: time to end at; None for the end.
    name: name of the file in errors; "" for its path.
    background: colour behind transparent pixels, white or black.

  Raises:
    UserError: the file can't be read; iterating over the frames also raises it.
    OSError: the storage fails; iterating over the frames also raises it.
  """
  name = name_for_errors(file, name)
  with contextlib.ExitStack() as stack:
    with reading(name):
      content = stack.enter_context(open_content(file))
      footage = _open(content, start, background, stack)
    frames = between(_named(footage.frames, name), start, end)
    yield dataclasses.replace(footage, frames=frames, num_frames=None if start or end else footage.num_frames)


def count_frames(file: File, name: str = "") -> int:
  """Return the number of frames of a video or a picture, usually without decoding them.

  Raises:
    UserError: the file can't be read.
    OSError: the storage fails.
  """
  with reading(name_for_errors(file, name)), open_content(file) as content:
    image = open_picture(content)
    if image is None:
      with videos.open_video(content) as video:
        return video.count()
    with image:
      return len(moving.durations(content, image)) if moving.is_animated(image) else 1


def between(frames: Iterator[Frame], start: float | None, end: float | None) -> Iterator[Frame]:
  """Yield the frames that are shown between two times in seconds; None for no bound."""
  for frame in frames:
    if end is not None and frame.time >= end - NEAR:
      return
    if start is None or frame.time >= start - NEAR:
      yield frame


def _open(content: BinaryIO, start: float | None, background: str, stack: contextlib.ExitStack) -> Footage:
  image = open_picture(content)
  if image is None:
    video = stack.enter_context(videos.open_video(content))
    return Footage(video.frames(start or 0.0, background), video.rate, num_frames=video.num_frames)
  stack.enter_context(image)
  if moving.is_animated(image):
    seconds = moving.durations(content, image)
    return Footage(_moving(image, seconds, background), len(seconds) / sum(seconds), num_frames=len(seconds))
  return Footage(iter([Frame(0.0, _image(pictures.flatten(image, background)))]), still=True)


def _moving(image: Image.Image, seconds: list[float], background: str) -> Iterator[Frame]:
  starts = itertools.accumulate(seconds, initial=0.0)
  for time, frame in zip(starts, moving.frames(image), strict=False):
    yield Frame(time, _image(pictures.flatten(frame, background)))


def _image(image: Image.Image) -> av.VideoFrame:
  return av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")


def _named(frames: Iterator[Frame], name: str) -> Iterator[Frame]:
  with reading(name):
    yield from frames
