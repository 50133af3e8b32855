"""Recognises formats of pictures and videos by content, never by name, and opens only those that are listed.

The lists are short on purpose. Other formats can start programs (PostScript), open files and addresses that the file
names (playlists, session descriptions), or be mistaken for another format (formats without a signature).
Invariant: files of other formats are refused by name, and only the file itself is read.
"""

import contextlib
import functools
import io
import re
import warnings
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

import av
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from nova_jax.media.signatures import looks_like_media
from nova_jax.storage import local_copy
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import NoFile, check_regular

File = str | Path | bytes | BinaryIO

# Pillow's formats that have a signature: TGA, PCX, SGI and ICO would match parts of MPEG streams.
PICTURES = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")

# FFmpeg's demuxers that read a single video file.
CONTAINERS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "h264", "hevc", "vvc", "av1", "obu", "ivf", "m4v", "h261",
    "h263", "flv", "asf", "ogg", "mxf", "gxf", "nut", "wtv", "rm", "dv", "yuv4mpegpipe", "vc1", "dnxhd",
    "cavsvideo", "dirac", "swf", "nsv",
    # Sound, which is recognised only to report that it has no video.
    "mp3", "wav", "flac", "aac", "aiff", "caf")

_OPTIONS = {
    "format_whitelist": ",".join(CONTAINERS),
    "protocol_whitelist": "pipe",  # Python reads the file.
}

# Other formats that users may pass, by their first bytes, with advice.
_OTHERS = tuple((re.compile(pattern, re.DOTALL), kind) for pattern, kind in (
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"),
    (rb".{4}ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)", "is a HEIC picture: convert it to JPEG or PNG"),
    (rb"(\xc5\xd0\xd3\xc6|%!)", "is PostScript, a program: convert it to PNG"),
    (rb"%PDF", "is a PDF document: convert the page to PNG"),
    (rb"(\xef\xbb\xbf)?\s*(#EXTM3U|ffconcat|\[playlist\]|v=0\r?\n|[^\0]{0,200}<MPD)",
     "is a playlist, which names other files: give the video itself"),
    (rb"\s*(<\?xml[^\0]{0,999})?<svg", "is an SVG drawing: convert it to PNG"),
    (rb"(?i)\s*<(!doctype html|html)", "is a web page: the download of the file itself failed"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "is a JPEG XL picture: convert it to JPEG or PNG"),
    (rb"(8BPS|gimp xcf|II\*\0.{4}CR)", "is a file of an editor or a camera: export it as PNG or JPEG"),
    (rb"(II\*\0|MM\0\*|II\+\0|MM\0\+)", "is a TIFF of a kind that is not read, or a damaged one: save it as PNG"),
    (rb"(\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|BM.{4}\0\0\0\0)", "is a damaged picture")))


# Where a picture states the meaning of its values: primaries and transfer of ITU-T H.273, which Pillow ignores.
COLOURS = "nova_jax colours"
_COLOURS = {
    "AVIF": re.compile(rb"colrnclx(..)(..)", re.DOTALL), "PNG": re.compile(rb"\0\0\0\x04cICP(.)(.)", re.DOTALL)}


class Unreadable(UserError):
  """A file can't be used as a picture or a video, for the given `reason`."""

  def __init__(self, reason: str, name: str = ""):
    super().__init__(f"{name}: {reason}" if name else reason)
    self.reason = reason


def name_for_errors(file: File, name: str = "") -> str:
  """Return the name of a file in errors: `name`, or its path."""
  return name or (str(file) if isinstance(file, (str, Path)) else "")


@contextlib.contextmanager
def reading(name: str) -> Generator[None]:
  """Turn any error of Pillow and FFmpeg into an `Unreadable` that names the file.

  An OSError of failing storage is not the file's fault, and is not changed.
  """
  try:
    yield
  except Exception as error:  # For malicious files Pillow raises any type.
    raise _with_name(error, name) from None


def _with_name(error: Exception, name: str) -> Exception:
  """Return the error to raise for a file of this name: `error` itself if the storage failed."""
  if isinstance(error, Unreadable):
    return type(error)(error.reason, name)
  if isinstance(error, av.error.FFmpegError):
    return Unreadable(f"can't be decoded: {error.strerror}", name)
  if isinstance(error, NoFile):
    return Unreadable(str(error))
  if isinstance(error, MemoryError):
    return Unreadable("takes more memory than there is", name)
  if isinstance(error, OSError) and error.errno:
    error.filename = error.filename or name
    return error
  text = " ".join(str(error).split()) or type(error).__name__
  if "MAX_TEXT_CHUNK" in text:
    return Unreadable(f"a text in it is longer than PICTURE_TEXT_BYTES, {limits.PICTURE_TEXT_BYTES:,}", name)
  return Unreadable(f"can't be read: {text}", name)


@contextlib.contextmanager
def open_content(file: File) -> Generator[BinaryIO]:
  """Open a file, given as path, bytes or open file, at its beginning.

  Raises:
    NoFile: it is not a regular file.
    Unreadable: it is empty.
  """
  with contextlib.ExitStack() as stack:
    if isinstance(file, bytes):
      file = io.BytesIO(file)
    elif isinstance(file, (str, Path)):
      file = stack.enter_context(local_copy(check_regular(file)).open("rb"))  # Decoders jump to and fro.
    file.seek(0)
    if not file.read(1):
      raise Unreadable("the file is empty")
    file.seek(0)
    yield file


def open_picture(content: BinaryIO) -> Image.Image | None:
  """Open a picture, decoding only its header; None if its format is not listed.

  Raises:
    Unreadable: it has more than `limits.PICTURE_PIXELS` pixels, or is a PNG with wrong checksums.
  """
  content.seek(0)
  _check_webp(content.read(30))
  content.seek(0)
  with warnings.catch_warnings():
    # Pillow warns of harmless damage, such as to camera metadata, and of sizes, which are checked here.
    warnings.simplefilter("ignore")
    try:
      image = Image.open(content, formats=PICTURES)
    except UnidentifiedImageError:
      return None
    except Image.DecompressionBombError:
      raise Unreadable(f"it has more pixels than PICTURE_PIXELS, {limits.PICTURE_PIXELS:,}") from None
  _check_pixels(image.width, image.height)
  if image.format == "PNG":
    place = content.tell()
    _check_png(content)
    content.seek(place)
  if image.format in _COLOURS:
    place = content.tell()
    content.seek(0)
    found = _COLOURS[image.format].search(content.read(1 << 16))
    content.seek(place)
    if found:
      image.info[COLOURS] = tuple(int.from_bytes(number) for number in found.groups())
  return image


def require_picture(content: BinaryIO) -> Image.Image:
  """Open a picture as `open_picture` does.

  Raises:
    Unreadable: the file is not a picture; the error says what it is, if that is recognised.
  """
  image = open_picture(content)
  if image is None:
    head = _head(content)
    kind = "is not a picture but a video or sound" if looks_like_media(head) else "is not a picture of a known kind"
    raise Unreadable(_other(head) or kind)
  return image


def _check_pixels(width: int, height: int) -> None:
  if width * height > limits.PICTURE_PIXELS:
    raise Unreadable(f"{width} x {height} pixels are more than PICTURE_PIXELS, {limits.PICTURE_PIXELS:,}")


def _check_png(content: BinaryIO) -> None:
  """Check the checksums of pixels, which Pillow ignores: the pixels after a flipped bit would be black."""
  content.seek(8)
  while len(head := content.read(8)) == 8:
    left, kind = int.from_bytes(head[:4]), head[4:]
    if kind not in (b"IDAT", b"fdAT"):
      content.seek(left + 4, 1)
      continue
    found = zlib.crc32(kind)
    while left and (part := content.read(min(left, 1 << 20))):
      found, left = zlib.crc32(part, found), left - len(part)
    if left:
      return  # The file is cut off, which decoding will report.
    if content.read(4) != found.to_bytes(4):
      raise Unreadable("is damaged: the checksum of its pixels is wrong")


def _check_webp(head: bytes) -> None:
  """Check the size in the header of a WebP, since Pillow allocates two frames when it opens the file."""
  kind, number = head[8:16], functools.partial(int.from_bytes, byteorder="little")
  if kind == b"WEBPVP8X":
    _check_pixels(number(head[24:27]) + 1, number(head[27:30]) + 1)
  elif kind == b"WEBPVP8L":
    bits = number(head[21:25])
    _check_pixels((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
  elif kind == b"WEBPVP8 ":
    _check_pixels(number(head[26:28]) & 0x3FFF, number(head[28:30]) & 0x3FFF)


def open_container(content: BinaryIO) -> av.container.InputContainer:
  """Open a video.

  Raises:
    Unreadable: its format is not listed.
    av.error.FFmpegError: its format is listed, but it is damaged.
  """
  head = _head(content)
  if other := _other(head):
    raise Unreadable(other)
  try:
    return av.open(
        _Nameless(content), mode="r", container_options=_OPTIONS, metadata_errors="replace", buffer_size=1 << 17,
        options={"max_pixels": str(limits.FRAME_PIXELS)})
  except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
    if head[4:8] == b"ftyp":
      raise Unreadable("is an MP4 or MOV without its index: its recording or its download was broken off") from None
    raise Unreadable(f"is neither a picture nor a video of a known kind, or it is damaged: {error.strerror}") from None


def _head(content: BinaryIO) -> bytes:
  content.seek(0)
  head = content.read(1 << 12)
  content.seek(0)
  return head


def _other(head: bytes) -> str | None:
  """Return the kind of a file that is not opened, with advice; None if unknown."""
  return next((kind for pattern, kind in _OTHERS if pattern.match(head)), None)


class _Nameless:
  """A file without a name, since FFmpeg would derive the format from it."""

  def __init__(self, content: BinaryIO):
    self.read, self.seek, self.tell = content.read, content.seek, content.tell


# Pillow's limits hold for the whole process. It raises at twice the limit of pixels. Texts in a PNG may be long, since
# some programs record the history of the picture there.
Image.MAX_IMAGE_PIXELS = limits.PICTURE_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK = limits.PICTURE_TEXT_BYTES  # ty: ignore[invalid-assignment] (not final)
