"""Videos as FFmpeg decodes them: the choice of the stream, its frames and their times.

Invariant: a part of a video has the same frames as if the video were decoded from the beginning.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Generator, Iterator
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

# Codecs whose packets in these containers are each one displayed frame.
_ONE_EACH = ("h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg", "prores", "ffv1", "png", "qtrle", "dnxhd")
_Timed = tuple[float, av.VideoFrame]

_NEAR = 1e-4  # Largest rounding error of times in seconds.
_BACK = (0.0, 2.0, 12.0)  # Seconds before the start at which decoding is tried, before starting from the beginning.
_USUAL_RATE = 25.0  # Rate of frames without times in a stream without a rate.


@dataclasses.dataclass(frozen=True)
class Video:
  """An open video.

  Attributes:
    content: open file.
    rate: frames per second; None if unknown.
    num_frames: number of frames according to the file; None if it does not say.
  """

  content: BinaryIO
  rate: float | None
  num_frames: int | None
  _container: av.container.InputContainer
  _stream: av.VideoStream

  def frames(self, start: float, background: str) -> Iterator[Frame]:
    """Yield frames from one shown at or before `start` seconds, on white or black. Call it only once."""
    behind = 255 if background == "white" else 0
    stretch = float(self._stream.sample_aspect_ratio or 1) or 1.0
    colours = None
    for time, image in progressive(self._from(start)):
      if colours != (colours := (image.format.name, image.colorspace, image.color_trc)):
        _check_colours(image)
      yield Frame(time, self._opaque(image, behind), stretch, *orientation(image))

  def count(self) -> int:
    """Return the number of frames; they are decoded only if packets and frames differ."""
    container = self._container.format.name
    if self._stream.codec_context.name in _ONE_EACH and container.startswith(("mov", "matroska")):
      return count_packets(self._container, self._stream)
    return sum(1 for _ in self._from(0.0))

  def _opaque(self, image: av.VideoFrame, behind: int) -> av.VideoFrame:
    """Composite a frame on grey of a value from 0 to 255 where it is transparent."""
    if not any(component.is_alpha for component in image.format.components):
      return image
    pixels = image.to_ndarray(format="rgba")
    alpha = pixels[..., 3:]
    # The fourth byte of raw 32-bit video in an AVI has no meaning.
    raw = self._container.format.name == "avi" and self._stream.codec_context.name == "rawvideo"
    if alpha.min() == 255 or (raw and not alpha.any()):
      return image
    shown = behind - (behind - pixels[..., :3].astype(np.float32)) * (alpha / np.float32(255))
    return av.VideoFrame.from_ndarray(shown.round().astype(np.uint8), format="rgb24")

  def _from(self, start: float) -> Iterator[_Timed]:
    base, step = self._base(), 1 / (self.rate or _USUAL_RATE)
    if not start or base is None or not self._seeks():
      return _timed(self._container, self._stream, self.rate, base, whole=True)
    for back in itertools.takewhile(lambda back: back < start, _BACK):
      try:
        self._container.seek(round((start - back + base) * av.time_base))
      except av.error.FFmpegError:  # SWF and RealMedia without an index can't seek.
        break
      decoded = _timed(self._container, self._stream, self.rate, base, whole=False)
      try:
        first = next(decoded, None)
      except (Unreadable, av.error.FFmpegError):  # Only decoding from the beginning shows whether this is damage.
        continue
      if first is not None and _is_landing(first[1]):
        # Deinterlacing uses the previous picture.
        latest = start - 1.5 * step if first[1].interlaced_frame else start + _NEAR
        if first[0] <= latest:
          return itertools.chain([first], decoded)
    return self._from_beginning(base)

  def _from_beginning(self, base: float | None) -> Iterator[_Timed]:
    with open_container(self.content) as container:
      stream = container.streams[self._stream.index]
      assert isinstance(stream, av.VideoStream)
      yield from _timed(container, stream, self.rate, base, whole=True)

  def _base(self) -> float | None:
    """Return the time at which the file begins; None for the time of its first frame."""
    if self._container.start_time is None or _reordered_avi(self._container, self._stream):
      return None
    return self._container.start_time / av.time_base

  def _seeks(self) -> bool:
    """Return whether frames have the same times wherever decoding begins."""
    return self._base() is not None and self._container.format.name != "mpeg"  # Program streams have few times.


@contextlib.contextmanager
def open_video(content: BinaryIO) -> Generator[Video]:
  """Open the best video stream of a file.

  Raises:
    Unreadable: there is no stream that can be decoded.
    av.error.FFmpegError: the file is damaged.
  """
  with open_container(content) as container:
    stream = _best(container)
    if stream.codec_context is None:
      raise Unreadable("there is no decoder for its codec")
    if stream.width * stream.height > limits.FRAME_PIXELS:
      raise Unreadable(
          f"frames of {stream.width} x {stream.height} are larger than FRAME_PIXELS, {limits.FRAME_PIXELS:,}")
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    rate = next(filter(is_rate, rates), rates[0] if rates else None)  # The first rate of DV is the unit of its times.
    yield Video(content, rate, stream.frames or None, container, stream)


def _best(container: av.container.InputContainer) -> av.VideoStream:
  """Return the stream that players show: preferably a moving one, then the default one, then the largest.

  FFmpeg's choice decides between equal streams. Attached pictures, such as covers, don't count.
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
  """Return whether decoding from this picture on gives the same frames as decoding from the beginning."""
  return image.time is not None and image.key_frame and image.pict_type not in (PictureType.P, PictureType.B)


def _timed(
    container: av.container.InputContainer, stream: av.VideoStream, rate: float | None, base: float | None, whole: bool
) -> Iterator[_Timed]:
  by_storage = _reordered_avi(container, stream)
  clock = Clock(rate or _USUAL_RATE, base, careless=container.format.name != "mpeg")
  for image in images(container, stream, whole):
    yield clock.time(_decoding_time(image) if by_storage else image.time), image


def _reordered_avi(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
  """Return whether the times in a file are decoding times that differ from display times."""
  context = stream.codec_context  # H.264 may signal reordering only later.
  return container.format.name == "avi" and (bool(context.has_b_frames) or context.name == "h264")


def _decoding_time(image: av.VideoFrame) -> float | None:
  return None if image.dts is None or image.time_base is None else float(image.dts * image.time_base)


def _check_colours(image: av.VideoFrame) -> None:
  """Raise Unreadable if a frame's colours can't be converted."""
  try:
    Frame(0.0, image).stored(16, 16)
  except (OSError, av.error.FFmpegError):
    raise Unreadable(
        f"its colours, {image.format.name} by matrix {image.colorspace} of ITU-T H.273, can't be converted: "
        "convert it to BT.709") from None
