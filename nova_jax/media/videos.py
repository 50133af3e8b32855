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
from av.video.frame import PictureType

from nova_jax.media.clock import Clock, is_rate
from nova_jax.media.decoding import count_packets, images
from nova_jax.media.formats import Unreadable, open_container
from nova_jax.media.frame import Frame, orientation
from nova_jax.media.interlaced import progressive
from nova_jax.utils import limits

# Codecs of which each packet in these containers is a frame that is shown.
_ONE_EACH = ("h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg", "prores", "ffv1", "png", "qtrle", "dnxhd")
_Timed = tuple[float, av.VideoFrame]

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

  def frames(self, start: float, background: str) -> Iterator[Frame]:
    """Yield frames from one that is shown at `start` seconds or before, on white or black; only once."""
    behind = 255 if background == "white" else 0
    stretch = float(self._stream.sample_aspect_ratio or 1) or 1.0
    colours = None
    for time, image in progressive(self._from(start)):
      if colours != (colours := (image.format.name, image.colorspace, image.color_trc)):
        _check_colours(image)
      yield Frame(time, self._opaque(image, behind), stretch, *orientation(image))

  def count(self) -> int:
    """Return how many frames there are; where each packet is one, none is decoded."""
    container = self._container.format.name
    if self._stream.codec_context.name in _ONE_EACH and container.startswith(("mov", "matroska")):
      return count_packets(self._container, self._stream)
    return sum(1 for _ in self._from(0.0))

  def _opaque(self, image: av.VideoFrame, behind: int) -> av.VideoFrame:
    """Put a frame on a grey, 0 to 255, where it is transparent."""
    if not any(component.is_alpha for component in image.format.components):
      return image
    pixels = image.to_ndarray(format="rgba")
    alpha = pixels[..., 3:]
    # Raw 32-bit video in an AVI has a fourth byte that means nothing.
    raw = self._container.format.name == "avi" and self._stream.codec_context.name == "rawvideo"
    if alpha.min() == 255 or (raw and not alpha.any()):
      return image
    shown = behind - (behind - pixels[..., :3].astype(np.float32)) * (alpha / np.float32(255))
    return av.VideoFrame.from_ndarray(shown.round().astype(np.uint8), format="rgb24")

  def _from(self, start: float) -> Iterator[_Timed]:
    base, step = self._base(), 1 / (self.rate or _USUAL_RATE)
    if not start or not self._seeks():
      return _timed(self._container, self._stream, self.rate, base, whole=True)
    for back in itertools.takewhile(lambda back: back < start, _BACK):
      try:
        self._container.seek(round((start - back + base) * av.time_base))
      except av.error.FFmpegError:  # SWF and RealMedia without an index can't.
        break
      decoded = _timed(self._container, self._stream, self.rate, base, whole=False)
      try:
        first = next(decoded, None)
      except (Unreadable, av.error.FFmpegError):  # Whether there is damage shows when all before it is known.
        continue
      if first is not None and _is_landing(first[1]):
        # Deinterlacing looks at the picture before.
        latest = start - 1.5 * step if first[1].interlaced_frame else start + _NEAR
        if first[0] <= latest:
          return itertools.chain([first], decoded)
    return self._from_beginning(base)

  def _from_beginning(self, base: float | None) -> Iterator[_Timed]:
    with open_container(self.content) as container:
      yield from _timed(container, container.streams[self._stream.index], self.rate, base, whole=True)

  def _base(self) -> float | None:
    """Return the time at which the file begins; None for that of its first frame."""
    if self._container.start_time is None or _reordered_avi(self._container, self._stream):
      return None
    return self._container.start_time / av.time_base

  def _seeks(self) -> bool:
    """Whether frames have the times that they have when all are decoded, wherever decoding begins."""
    return self._base() is not None and self._container.format.name != "mpeg"  # A program stream has few times.


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
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    rate = next(filter(is_rate, rates), rates[0] if rates else None)  # Of DV the first is the unit of its times.
    yield Video(content, rate, stream.frames or None, container, stream)


def _best(container: av.container.InputContainer) -> av.VideoStream:
  """Return the stream that players show: one that moves, before others the default, then the largest.

  FFmpeg's own choice decides between equals; a picture that is attached, such as a cover, is none.
  """
  streams = [stream for stream in container.streams.video if not _is_attached(stream)]
  if not streams:
    kinds = sorted({"picture" if stream.type == "video" else stream.type for stream in container.streams})
    raise Unreadable("no video in it, only " + (", ".join(kinds) or "nothing"))
  best = container.streams.best("video")

  def rank(stream: av.VideoStream) -> tuple[bool, bool, int, bool]:
    moves = stream.frames != 1 and bool(stream.average_rate)
    default = bool(stream.disposition & stream.disposition.default)
    return moves, default, stream.width * stream.height, stream == best

  return max(streams, key=rank)


def _is_attached(stream: av.VideoStream) -> bool:
  return bool(stream.disposition & (stream.disposition.attached_pic | stream.disposition.timed_thumbnails))


def _is_landing(image: av.VideoFrame) -> bool:
  """Whether what is decoded from here on is what decoding from the beginning gives."""
  return image.time is not None and image.key_frame and image.pict_type not in (PictureType.P, PictureType.B)


def _timed(
    container: av.container.InputContainer, stream: av.VideoStream, rate: float | None, base: float | None, whole: bool
) -> Iterator[_Timed]:
  by_storage = _reordered_avi(container, stream)
  clock = Clock(rate or _USUAL_RATE, base, careless=container.format.name != "mpeg")
  for image in images(container, stream, whole):
    yield clock.time(_decoding_time(image) if by_storage else image.time), image


def _reordered_avi(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
  """Whether the times in a file are those at which its pictures are decoded, and others than they are shown at."""
  context = stream.codec_context  # H.264 may say only later that it reorders.
  return container.format.name == "avi" and (bool(context.has_b_frames) or context.name == "h264")


def _decoding_time(image: av.VideoFrame) -> float | None:
  return None if image.dts is None else float(image.dts * image.time_base)


def _check_colours(image: av.VideoFrame) -> None:
  """Raise an Unreadable if a frame's colours can't be shown."""
  try:
    Frame(0.0, image).stored(16, 16)
  except (OSError, av.error.FFmpegError):
    raise Unreadable(
        f"its colours, {image.format.name} by matrix {image.colorspace} of ITU-T H.273, can't be converted: "
        "convert it to BT.709") from None
