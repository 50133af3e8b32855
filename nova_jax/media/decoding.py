"""Decodes the packets of a video, and distinguishes damage from traces of cuts, joins and careless writers.

A damaged picture is an error and never concealed. Pictures before the first key frame of a clip that was cut, and
metadata in the stream that can't be parsed, are not damage.
Invariant: pictures are yielded in the order in which they are shown, with one of them in memory at a time.
"""

from collections.abc import Iterator

import av
import av.logging
from av.bitstream import BitStreamFilterContext

from nova_jax.media.formats import Unreadable
from nova_jax.utils import limits

_JOINED = 2  # Largest number of packets after a loss that may come without a key frame.
_OPTIONS = {"err_detect": "crccheck+explode", "max_pixels": str(limits.FRAME_PIXELS)}
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders for these codecs ignore transparency.
_WAITING = ("h264", "hevc")  # Their decoders wait for a complete picture, even if it is refreshed in parts.
_COMPLAINING = ("ffv1",)  # Pictures with a wrong checksum are concealed, and only the log reports them.
_NOTES = {"h264": "6", "hevc": "39-40"}  # Units with metadata on pictures (SEI).


class CutOff(Unreadable):
  """A file is shorter than its index says; the frames before the end are valid."""


def images(container: av.container.InputContainer, stream: av.VideoStream, whole: bool) -> Iterator[av.VideoFrame]:
  """Yield decoded pictures, starting with the first complete one.

  Args:
    container: container to read from, at its current position.
    stream: stream of the container.
    whole: whether the stream is read from its beginning.

  Raises:
    CutOff: the file is shorter than its index says.
    Unreadable, av.error.FFmpegError: a picture is damaged.
  """
  decoder = _decoder(stream)
  began, key, number, packets = False, None, 0, 0  # Whether a key frame was read, and the time of the first.
  waiting = False  # Whether the first complete picture is still to come.
  lost = 0  # Number of packets since some were lost.
  for packet in container.demux(stream):
    waiting |= not packets and not packet.is_keyframe and stream.codec_context.name not in _WAITING
    packets += bool(packet.size)
    # A transport stream flags lost packets; it may also do so where clips were joined.
    lost = 0 if packet.is_keyframe else lost + (lost > 0 or packet.is_corrupt)
    if lost > _JOINED:
      raise Unreadable(f"data are missing before frame {number}")
    try:
      found = _decode(stream if decoder is stream.codec_context else decoder, packet, decoder.name, number)
    except av.error.InvalidDataError:
      # A picture stored after the first key frame but shown before it refers to a picture that was cut off.
      if not packet.is_keyframe and (not began or (packet.pts is not None and key is not None and packet.pts < key)):
        continue
      if stream.codec_context.name not in _NOTES:
        raise
      found = _decode_without_notes(stream, packet)
    if packet.is_keyframe and not began:
      began, key = True, packet.pts
    for image in found:
      waiting &= not image.key_frame
      if waiting:
        continue
      if image.is_corrupt:
        raise Unreadable(f"frame {number} is damaged")
      number += 1
      yield image
  if whole:
    _check_length(container, stream, packets)


def count_packets(container: av.container.InputContainer, stream: av.VideoStream) -> int:
  """Return the number of packets that `images` would decode, without decoding them.

  Raises:
    CutOff: the file is shorter than its index says.
  """
  began, key, count, packets = False, None, 0, 0
  for packet in container.demux(stream):
    packets += bool(packet.size)
    if packet.is_keyframe and not began:
      began, key = True, packet.pts
    leads = packet.pts is not None and key is not None and packet.pts < key
    count += bool(packet.size) and began and not packet.is_discard and not leads
  _check_length(container, stream, packets)
  return count


def _check_length(container: av.container.InputContainer, stream: av.VideoStream, packets: int) -> None:
  indexed = len(stream.index_entries) if container.format.name.startswith("mov") else 0
  if packets < indexed:
    raise CutOff(f"it ends after {packets} of {indexed} frames; the rest is missing")


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
  context = stream.codec_context
  if context.name in _WITH_ALPHA and stream.metadata.get("alpha_mode") == "1":
    decoder = av.CodecContext.create(_WITH_ALPHA[context.name], "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = context.extradata
    context = decoder
  if not context.is_open:
    context.thread_type = "NONE"
    context.options = _OPTIONS
  return context


def _decode(
    decoder: av.VideoStream | av.VideoCodecContext, packet: av.Packet, codec: str, number: int
) -> list[av.VideoFrame]:
  if codec not in _COMPLAINING:
    return decoder.decode(packet)
  before = av.logging.get_level()
  av.logging.set_level(av.logging.ERROR)
  try:
    with av.logging.Capture() as complaints:
      found = decoder.decode(packet)
  finally:
    av.logging.set_level(before)
  if complaints:
    raise Unreadable(f"frame {number} is damaged: its checksum is wrong")
  return found


def _decode_without_notes(stream: av.VideoStream, packet: av.Packet) -> list[av.VideoFrame]:
  """Decode a packet again without its metadata, which may be all it has, after something in it can't be parsed."""
  notes = BitStreamFilterContext(f"filter_units=remove_types={_NOTES[stream.codec_context.name]}", stream)
  return [image for part in notes.filter(packet) for image in stream.decode(part)]
