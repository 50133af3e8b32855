"""Reads pictures as arrays: upright, with eight bits per channel, and on a white background where transparent.

Invariant: a picture takes the memory of its stored form, and one that is larger than any frame is shrunk at once.
"""

import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from nova_jax.media import hdr
from nova_jax.media.formats import COLOURS, File, Unreadable, name_for_errors, open_content, reading, require_picture
from nova_jax.utils import limits

# Transpositions that make each EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90}

# TIFF tags and values that Pillow ignores for pictures with more than eight bits.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2


def read_picture(file: File, name: str = "", background: str = "white") -> UInt8[np.ndarray, "height width 3"]:
  """Read a picture, or the first one of a file with several.

  Args:
    file: path, bytes, or open file.
    name: name of the file in errors; "" for its path.
    background: colour behind transparent pixels.

  Raises:
    UserError: the file is not a readable picture; the error names it.
  """
  with reading(name_for_errors(file, name)), open_content(file) as content:
    with require_picture(content) as image:
      return np.asarray(flatten(image, background))


def flatten(image: Image.Image, background: str = "white") -> Image.Image:
  """Return an open picture upright, as RGB on a background of one colour.

  Raises:
    Unreadable: the values of black and white are unknown.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    turn = _UPRIGHT.get(_orientation(image))
    primaries, transfer = image.info.get(COLOURS, (0, 0))
    image = composite_on(background, _eight_bits(_small(image)))
    if transfer:
      image = Image.fromarray(hdr.shown(np.asarray(image), transfer, primaries))
    return image if turn is None else image.transpose(turn)


def composite_on(background: str, image: Image.Image) -> Image.Image:
  """Return a picture as RGB, composited on one colour where it is transparent."""
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
  return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
  if image.format == "TIFF":
    return 1  # Pillow turns these while reading.
  try:
    return image.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # Damaged EXIF data are ignored, as viewers do; Pillow raises any type.
    return 1


def _small(image: Image.Image) -> Image.Image:
  """Shrink a picture that is larger than any frame by an integer factor."""
  factor = 1
  while image.width * image.height > factor**2 * limits.FRAME_PIXELS:
    factor *= 2
  if factor == 1:
    return image
  if image.format in ("JPEG", "MPO"):
    image.draft(None, (image.width // factor, image.height // factor))  # Decodes at reduced size.
    return _small(image) if image.width * image.height > limits.FRAME_PIXELS else image
  if image.mode in ("1", "P"):
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
  elif image.mode.startswith("I"):
    image = _eight_bits(image)
  return image.reduce(factor)


def _eight_bits(image: Image.Image) -> Image.Image:
  if image.mode == "F":
    values = np.asarray(image)
    if not (values >= 0).all() or not (values <= 1).all():
      raise Unreadable(
          f"expected floating-point pixels from 0 to 1, got {values.min():g} to {values.max():g}: save it in 8 bits")
    return Image.fromarray((values * 255).round().astype(np.uint8))
  tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
  if tags and (image.mode == "I" or _SIGNED in tags.get(_SAMPLE_FORMAT, ())):
    raise Unreadable("its pixels are 32-bit or signed numbers, whose black and white are not known: save it in 8 bits")
  if image.mode.startswith("I"):  # 16 bits, or 12 in a TIFF.
    most = (1 << tags.get(_BITS, (16,))[0]) - 1
    values = np.asarray(image).clip(0, most)
    values = (values // 257 if most == 65535 else values.astype(np.uint32) * 255 // most).astype(np.uint8)
    return Image.fromarray(255 - values if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else values)
  return image
