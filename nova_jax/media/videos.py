"""Videos as FFmpeg decodes them: which stream, which frames, and at which times.

Invariant: the frames of a part are those that decoding from the beginning gives.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np

from nova_jax import limits
from nova_jax.media.formats import Unreadable, open_container
from nova_jax.media.frame import Frame, orientation

_NEAR = 1e-4  # Seconds by which rounded times may be off.
_BACK = (0.0, 2.0, 12.0)  # Seconds before the start from which it is tried, before the beginning.
_USUAL_RATE = 25.0  # Of frames without times, in a stream that doesn't tell its rate.


@dataclasses.dataclass(frozen=True)
class Video:
  """An open video.

  Attributes:
    content: the file.
    rate: frames a second; None if it isn't known.
    num_frames: how many the file says there are; None if it doesn't.
  """

  content: BinaryIO
  rate: float | None
  num_frames: int | None
  _container: av.container.InputContainer
  _stream: av.VideoStream

  def frames(self, start: float) -> Iterator[Frame]:
    """Yield frames from one that is shown at `start` seconds or before; only once."""
    base = self._base()
    if start and base is not None:
      for back in _BACK:
        if start <= back:
          break
        self._container.seek(round((start - back + base) * av.time_base))
        decoded = _decode(self._container, self._stream, self.rate, base)
        try:
          first = next(decoded, None)
        except (Unreadable, av.error.FFmpegError):  # Whether there is damage shows when all before it is known.
          continue
        # Only what is decoded from a whole picture is what decoding from the beginning gives.
        if first is not None and first.time <= start + _NEAR and _is_whole(first.image):
          yield from itertools.chain([first], decoded)
          return
      with open_container(self.content) as container:
        yield from _decode(container, container.streams[self._stream.index], self.rate, base)
      return
    yield from _decode(self._container, self._stream, self.rate, base)

  def _base(self) -> float | None:
    """Return the time at which the file begins; None if its times aren't known."""
    if self._container.start_time is not None:
      return self._container.start_time / av.time_base
    return None


@contextlib.contextmanager
def open_video(content: BinaryIO) -> Iterator[Video]:
  """Open the best video stream of a file.

  Raises:
    Unreadable: there is none that can be decoded.
    av.error.FFmpegError: it is damaged.
  """
  with open_container(content) as container:
    stream = _best(container)
    if stream.codec_context is None:
      raise Unreadable("there is no decoder for its codec")
    if stream.width * stream.height > limits.FRAME_PIXELS:
      raise Unreadable(
          f"frames of {stream.width} x {stream.height} are larger than FRAME_PIXELS, {limits.FRAME_PIXELS:,}")
    rate = float(stream.average_rate or stream.guessed_rate or 0) or None
    yield Video(content, rate, stream.frames or None, container, stream)


def _best(container: av.container.InputContainer) -> av.VideoStream:
  """Return the stream that FFmpeg takes for the best, but no picture that is attached, such as a cover."""
  stream = container.streams.best("video")
  if stream is not None and not _is_attached(stream):
    return stream
  streams = [stream for stream in container.streams.video if not _is_attached(stream)]
  if not streams:
    kinds = sorted({"picture" if stream.type == "video" else stream.type for stream in container.streams})
    raise Unreadable("no video in it, only " + (", ".join(kinds) or "nothing"))
  return max(streams, key=lambda stream: stream.width * stream.height)


def _is_attached(stream: av.VideoStream) -> bool:
  return bool(stream.disposition & (stream.disposition.attached_pic | stream.disposition.timed_thumbnails))


def _is_whole(image: av.VideoFrame) -> bool:
  return image.key_frame and image.pict_type not in (av.video.frame.PictureType.P, av.video.frame.PictureType.B)


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream, rate: float | None, base: float | None
) -> Iterator[Frame]:
  stream.thread_type = "NONE"
  if not stream.codec_context.is_open:
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(limits.FRAME_PIXELS)}
  stretch = float(stream.sample_aspect_ratio or 1) or 1.0
  clock = _Clock(rate or _USUAL_RATE, base)
  for number, image in enumerate(_images(container, stream)):
    yield Frame(clock.time(image), _opaque(image), stretch, *orientation(image))


def _images(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
  """Yield decoded pictures, but none before the first that is whole: those of a clip that was cut are no damage."""
  key, number = None, 0  # The time of the first key frame.
  for packet in container.demux(stream):
    try:
      images = packet.decode()
    except av.error.InvalidDataError:
      # A picture that is shown before the first key frame, though stored after it, refers to one that was cut off.
      if packet.is_keyframe or (key is not None and (packet.pts is None or packet.pts >= key)):
        raise
      continue
    if key is None and packet.is_keyframe:
      key = packet.pts if packet.pts is not None else packet.dts
    for image in images:
      if image.is_corrupt and number == 0:
        continue
      if image.is_corrupt:
        raise Unreadable(f"frame {number} is damaged")
      number += 1
      yield image


class _Clock:
  """Tells the times of frames, which some files leave out, or let go back."""

  def __init__(self, rate: float, base: float | None):
    self._step, self._base, self._last = 1 / rate, base, None

  def time(self, image: av.VideoFrame) -> float:
    """Return the time of the next frame in order."""
    seen = image.time
    if seen is not None and self._base is None:
      self._base = seen
    time = None if seen is None else seen - self._base
    if time is None:
      time = 0.0 if self._last is None else self._last + self._step
    elif self._last is not None and time < self._last:
      # Clips that were joined start again; small steps back are of careless writers.
      if self._last - time > 1:
        self._base -= self._last + self._step - time
        time = self._last + self._step
      else:
        time = self._last
    self._last = time
    return time


def _opaque(image: av.VideoFrame) -> av.VideoFrame:
  """Put a frame on white where it is transparent."""
  if not any(component.is_alpha for component in image.format.components):
    return image
  pixels = image.to_ndarray(format="rgba")
  alpha = pixels[..., 3:]
  if alpha.min() == 255:
    return image
  white = 255 - (255 - pixels[..., :3]) * (alpha / np.float32(255))
  return av.VideoFrame.from_ndarray(white.round().astype(np.uint8), format="rgb24")
