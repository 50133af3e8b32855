"""What a person gives to start from, as arrays of the model's size: pictures, clips, boxes and masks.

Pictures and clips may be files, PIL images or arrays of any size. They are scaled to cover the frame, and what sticks
out is cut off on both sides. Masks are true where something is to be made anew.
Invariant: an array of the right size passes unchanged, to the bit.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

Box = tuple[int, int, int, int]  # Top, left, bottom, right, in pixels of the model's frame.
FILL = 127  # Where nothing is known, the middle of the range.
_STILLS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_picture(source: Any, size: tuple[int, int], channels: int, name: str = "image") -> UInt8[np.ndarray, "h w c"]:
  """Return a picture of the model's size.

  Args:
    source: a path, a PIL image or uint8 [h, w], [h, w, 1] or [h, w, 3].
    size: height and width of a frame.
    channels: 1 for grey or 3.
    name: of the argument, for errors.

  Raises:
    ValueError: it is none of these.
  """
  return fit(_open(source, name), size, channels)


def read_clip(
    source: Any, size: tuple[int, int], channels: int, last: int | None = None, name: str = "video"
) -> UInt8[np.ndarray, "T h w c"]:
  """Return the `last` frames of a clip (None for all), or all it has.

  Args:
    source: a path of a video or of a moving picture, or uint8 [T, h, w, 1 or 3].
    size, channels, name: as of `read_picture`.
  """
  if isinstance(source, (str, Path)):
    frames = deque(_frames(Path(source), name), maxlen=last)
  else:
    source = np.asarray(source)
    if source.ndim != 4 or not len(source):
      raise ValueError(f"{name}: expected a file or uint8 [time, height, width, channel], got shape {source.shape}")
    frames = [_open(frame, name) for frame in source[-(last or 0):]]
  return np.stack([fit(frame, size, channels) for frame in frames])


def count_frames(path: str | Path) -> int:
  """Return how many frames a video or a moving picture has."""
  return sum(1 for _ in _frames(Path(path), "video"))


def fit(image: Image.Image, size: tuple[int, int], channels: int) -> UInt8[np.ndarray, "h w c"]:
  """Scale a picture to cover a frame, and cut off what sticks out."""
  image = image.convert("L" if channels == 1 else "RGB")
  height, width = size
  if image.size != (width, height):
    # Whole factors undo the enlarging of small clips exactly.
    whole = image.width % width == 0 == image.height % height and image.width // width == image.height // height
    image = ImageOps.fit(image, (width, height), Image.Resampling.BOX if whole else Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(height, width, channels)


def read_mask(
    source: Any, size: tuple[int, int], num_frames: int, name: str = "mask"
) -> Bool[np.ndarray, "T h w"]:
  """Return where each frame is made anew.

  Args:
    source: a box, four numbers; a picture that is white there; or bool [h, w] or [T, h, w].
    size: height and width of a frame.
    num_frames: T.
    name: of the argument, for errors.
  """
  if isinstance(source, Sequence) and not isinstance(source, str):
    top, left, bottom, right = check_box(source, size, name)
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
  elif isinstance(source, np.ndarray) and source.dtype == bool:
    mask = source
  else:
    mask = read_picture(source, size, 1, name)[..., 0] >= 128
  if mask.shape[-2:] != size or mask.ndim not in (2, 3) or (mask.ndim == 3 and len(mask) not in (1, num_frames)):
    raise ValueError(f"{name}: expected one of {size[0]} x {size[1]} or {num_frames} of them, got {mask.shape}")
  if not mask.any():
    raise ValueError(f"{name}: it leaves nothing to make; it should be white, or true, where something is made anew")
  return np.broadcast_to(mask, (num_frames, *size))


def check_box(box: Sequence[int], size: tuple[int, int], name: str) -> Box:
  """Return a box that lies in a frame, or raise a ValueError."""
  box = tuple(np.atleast_1d(np.asarray(box, object)))
  if len(box) == 4 and all(isinstance(side, (int, np.integer)) for side in box):
    top, left, bottom, right = box
    if 0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]:
      return top, left, bottom, right
  raise ValueError(
      f"{name}: expected TOP, LEFT, BOTTOM, RIGHT within a frame of {size[0]} x {size[1]} pixels, got {box}")


def put(frames: UInt8[np.ndarray, "T h w c"], box: Box, size: tuple[int, int]) -> UInt8[np.ndarray, "T H W c"]:
  """Return frames of `size` that show `frames` within the box and nothing around it."""
  top, left, bottom, right = box
  canvas = np.full((len(frames), *size, frames.shape[-1]), FILL, np.uint8)
  canvas[:, top:bottom, left:right] = frames
  return canvas


def _open(source: Any, name: str) -> Image.Image:
  if isinstance(source, Image.Image):
    return _upright(source)
  if isinstance(source, (str, Path)):
    try:
      with Image.open(source) as image:
        return _upright(image)
    except UnidentifiedImageError:
      raise ValueError(f"{name}: {source} is not a picture") from None
    except (OSError, Image.DecompressionBombError) as error:
      reason = "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
      raise ValueError(f"{name}: {source} {reason}") from None
  array = np.asarray(source)
  if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)) or not array.size:
    raise ValueError(
        f"{name}: expected a file, a PIL image or uint8 [height, width, 1 or 3], got {array.dtype} {array.shape}")
  return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _upright(image: Image.Image) -> Image.Image:
  """Turn a photograph as its camera was held, and put what is transparent on black."""
  image = ImageOps.exif_transpose(image)
  if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
  if image.mode.startswith("I;16"):
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # `convert` cuts off what is above 255.
  return image.convert("L" if image.mode in ("L", "1") else "RGB")


def _frames(path: Path, name: str) -> Iterator[Image.Image]:
  if path.suffix.lower() in _STILLS:
    _open(path, name)  # For its errors.
    with Image.open(path) as image:
      yield from (_upright(frame) for frame in ImageSequence.Iterator(image))
    return
  try:
    with av.open(str(path)) as container:
      if not container.streams.video:
        raise ValueError(f"{name}: {path} has no pictures")
      yield from (frame.to_image() for frame in container.decode(video=0))
  except (av.FFmpegError, OSError) as error:
    raise ValueError(f"{name}: {path} can't be read as a video: {error.strerror}") from None
