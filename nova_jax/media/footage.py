"""Footage: frames of a video, of a moving picture or of a still, in order, each with its time and how it is seen.

Times are seconds from the file's beginning, as players count them. A scene has the frames that decoding from the
beginning gives: a seek counts only if it lands on a whole picture at or before the start. Videos are decoded by PyAV in
one thread, since there is one process a core, and a damaged frame is an error, never a concealed one.
Invariant: a footage's frames depend on the file's bytes alone, and one of them is in memory at a time.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np
from PIL import Image

from nova_jax.media import moving, pictures, videos
from nova_jax.media.formats import File, content_of, name_of, open_picture, reading
from nova_jax.media.frame import Frame

NEAR = 1e-4  # Seconds by which rounded times may be off.


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
    file: File, start: float | None = None, end: float | None = None, name: str = "", background: str = "white"
) -> Iterator[Footage]:
  """Open a video or a picture, or the part of a video between two times in seconds.

  Args:
    file: its path, its bytes, or what is open.
    start: None for the beginning.
    end: None for the end.
    name: what errors call it; "" for its path.
    background: the colour that shows where it is transparent, white or black.

  Raises:
    ValueError: it can't be read; also raised while going through the frames.
    OSError: storage fails; likewise.
  """
  name = name_of(file, name)
  with contextlib.ExitStack() as stack:
    with reading(name):
      content = stack.enter_context(content_of(file))
      footage = _open(content, start, background, stack)
    frames = between(_named(footage.frames, name), start, end)
    yield dataclasses.replace(footage, frames=frames, num_frames=None if start or end else footage.num_frames)


def count_frames(file: File, name: str = "") -> int:
  """Return how many frames a video or a picture has, as a rule without decoding any.

  Raises:
    ValueError: it can't be read.
    OSError: storage fails.
  """
  with reading(name_of(file, name)), content_of(file) as content:
    image = open_picture(content)
    if image is None:
      with videos.open_video(content) as video:
        return video.count()
    with image:
      return len(moving.durations(content, image)) if moving.moves(image) else 1


def between(frames: Iterator[Frame], start: float | None, end: float | None) -> Iterator[Frame]:
  """Yield the frames that are shown from one time to another."""
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
  if moving.moves(image):
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
