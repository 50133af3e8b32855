"""Animated pictures: frames of GIF, APNG, WebP and AVIF files, which Pillow composes, and their durations.

Durations are read from the structure of the file, without decoding. GIF: graphic control extensions. PNG: fcTL chunks.
WebP: ANMF chunks. AVIF has no such simple structure, so Pillow provides its durations.
Invariant: one frame is in memory at a time.
"""

from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

from nova_jax.media.formats import Unreadable
from nova_jax.utils import limits

_KINDS = ("GIF", "PNG", "WEBP", "AVIF")
_SHORTEST = 0.011  # Seconds. Shorter frames are shown for `_USUAL`, as in browsers.
_USUAL = 0.1


def is_animated(image: Image.Image) -> bool:
  """Return whether an open picture has several frames that follow one another in time.

  Raises:
    Unreadable: its frames have more than `limits.FRAME_PIXELS` pixels.
  """
  if image.format not in _KINDS or not getattr(image, "is_animated", False):
    return False
  _check_size(image)
  return True


def durations(content: BinaryIO, image: Image.Image) -> list[float]:
  """Return the duration of each frame in seconds."""
  content.seek(0)
  read = {"GIF": _gif, "PNG": _png, "WEBP": _webp}.get(image.format or "")
  found = list(read(content)) if read else _avif(image)
  count = _count(image) - _first(image)
  if len(found) < count:
    raise Unreadable(f"it ends after {len(found)} of {count} frames; the rest is missing")
  return [seconds if seconds >= _SHORTEST else _USUAL for seconds in found[:count]]


def frames(image: Image.Image) -> Iterator[Image.Image]:
  """Yield the frames as displayed; each is valid only until the next."""
  for number in range(_first(image), _count(image)):
    image.seek(number)
    _check_size(image)  # A frame of a GIF may be larger than earlier ones.
    image.load()
    yield image


def _check_size(image: Image.Image) -> None:
  if image.width * image.height > limits.FRAME_PIXELS:
    raise Unreadable(f"frames of {image.width} x {image.height} are larger than FRAME_PIXELS, {limits.FRAME_PIXELS:,}")


def _count(image: Image.Image) -> int:
  return getattr(image, "n_frames", 1)


def _first(image: Image.Image) -> int:
  """Return the number of the first frame; a PNG may begin with a picture for viewers that show only stills."""
  return int(getattr(image, "default_image", False))


def _gif(content: BinaryIO) -> Iterator[float]:
  head = content.read(13)
  if head[10] & 0x80:
    content.seek(3 << (head[10] & 7) + 1, 1)
  seconds = 0.0
  while (block := content.read(1)) in (b"!", b","):
    if block == b"!":
      label, data = content.read(1), _gif_blocks(content)
      if label == b"\xf9" and len(data) >= 4:
        seconds = int.from_bytes(data[1:3], "little") / 100
      continue
    place = content.read(9)
    if len(place) < 9:
      return
    if place[8] & 0x80:
      content.seek(3 << (place[8] & 7) + 1, 1)
    content.seek(1, 1)
    _gif_blocks(content)
    yield seconds
    seconds = 0.0


def _gif_blocks(content: BinaryIO) -> bytes:
  """Skip blocks of data, and return the first."""
  first = None
  while (size := content.read(1)) not in (b"", b"\0"):
    data = content.read(size[0])
    first = data if first is None else first
  return first or b""


def _png(content: BinaryIO) -> Iterator[float]:
  content.seek(8)
  while len(head := content.read(8)) == 8:
    size = int.from_bytes(head[:4], "big")
    if head[4:] == b"fcTL" and size == 26:
      data = content.read(26)
      yield int.from_bytes(data[20:22], "big") / (int.from_bytes(data[22:24], "big") or 100)
      size = 0
    content.seek(size + 4, 1)


def _webp(content: BinaryIO) -> Iterator[float]:
  content.seek(12)
  while len(head := content.read(8)) == 8:
    size = int.from_bytes(head[4:], "little")
    if head[:4] == b"ANMF":
      data = content.read(16)
      yield int.from_bytes(data[12:15], "little") / 1000
      size -= 16
    content.seek(size + size % 2, 1)


def _avif(image: Image.Image) -> list[float]:
  found = []
  for _ in frames(image):
    found.append(float(image.info.get("duration", 0)) / 1000)
  image.seek(0)
  return found
