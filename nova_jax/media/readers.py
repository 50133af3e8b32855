"""Reads the pictures, clips, boxes and masks that a generation starts from, as arrays of the model's size.

Pictures and clips may be files, PIL images or arrays of any size. They are scaled to cover the frame, and cropped
equally on both sides. Masks are true where something is generated.
Invariants: an array of the right size is returned unchanged, bit for bit. At most one frame of a file is in memory
besides the returned frames.
"""

import contextlib
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from nova_jax.media import footage, moving, pictures
from nova_jax.media.clock import is_rate
from nova_jax.media.formats import open_content, open_picture, reading, require_picture
from nova_jax.storage import as_path
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_regular

Box = tuple[int, int, int, int]  # Top, left, bottom and right edge in pixels of the model's frame.
FILL = 127  # Value of unknown pixels, the middle of the range.


class Clip(NamedTuple):
  """Frames of a given clip.

  Attributes:
    frames: requested frames.
    fps: frames per second of the file; None if unknown.
    before: number of frames before the requested ones.
    more: whether there are frames after the requested ones.
  """

  frames: UInt8[np.ndarray, "T h w c"]
  fps: float | None = None
  before: int = 0
  more: bool = False


def read_picture(source: Any, size: tuple[int, int], channels: int, name: str = "image") -> UInt8[np.ndarray, "h w c"]:
  """Return a picture in the model's size; the first frame of an animated one.

  Args:
    source: path, PIL image, or uint8 array [h, w], [h, w, 1] or [h, w, 3].
    size: height and width of a frame.
    channels: number of channels, 1 for grey or 3.
    name: name of the argument in errors.

  Raises:
    UserError: the source is none of these, or can't be read.
  """
  return scale_to_cover(_open(source, name), size, channels)


def read_clip(
    source: Any, size: tuple[int, int], channels: int, last: int | None = None, name: str = "video"
) -> UInt8[np.ndarray, "T h w c"]:
  """Return the `last` frames of a clip, or all if it has fewer or `last` is None; see `open_clip`."""
  return open_clip(source, size, channels, last=last, name=name).frames


def open_clip(
    source: Any, size: tuple[int, int], channels: int, *, first: int | None = None, last: int | None = None,
    name: str = "video",
) -> Clip:
  """Read the first frames of a clip, or the last ones.

  Args:
    source: path of a video or a picture, or uint8 array [T, h, w, 1 or 3].
    size: height and width of a frame.
    channels: number of channels, 1 for grey or 3.
    first: largest number of frames from the beginning; None for all.
    last: largest number of frames up to the end; None for all.
    name: name of the argument in errors.

  Raises:
    UserError: the source is none of these, or can't be read.
  """
  if isinstance(source, (str, Path)):
    with _about(name):
      return _read(as_path(source), size, channels, first, last)
  try:
    source = np.asarray(source)
  except ValueError:
    raise UserError(f"{name}: expected frames of one shape, got several") from None
  if source.ndim != 4 or not len(source):
    raise UserError(f"{name}: expected a file or uint8 [time, height, width, channel], got shape {source.shape}")
  before = 0 if last is None else max(0, len(source) - last)
  taken = source[before:][:first]
  frames = np.stack([scale_to_cover(_open(frame, name), size, channels) for frame in taken])
  return Clip(frames, before=before, more=before + len(taken) < len(source))


def check_file(path: str | Path, name: str) -> None:
  """Check by its beginning whether `read_picture`, `read_clip` or `read_mask` can read a file.

  Args:
    path: path of the file.
    name: name of the argument, "image", "video" or "mask".

  Raises:
    UserError: the file does not exist, or is not a readable picture or video.
  """
  with _about(name):
    check_regular(path)
    if name != "image":
      with footage.open_footage(path) as found:
        next(found.frames, None)
      return
    with reading(str(path)), open_content(path) as content:
      require_picture(content).close()


def count_frames(path: str | Path) -> int:
  """Return the number of frames of a video or an animated picture."""
  with _about("video"):
    return footage.count_frames(path)


def scale_to_cover(image: Image.Image, size: tuple[int, int], channels: int) -> UInt8[np.ndarray, "h w c"]:
  """Scale a picture to cover a frame, and crop it to the frame."""
  image = image.convert("L" if channels == 1 else "RGB")
  height, width = size
  if image.size != (width, height):
    # Integer factors exactly undo the enlargement of small clips.
    whole = image.width % width == 0 == image.height % height and image.width // width == image.height // height
    image = ImageOps.fit(image, (width, height), Image.Resampling.BOX if whole else Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(height, width, channels)


def read_mask(
    source: Any, size: tuple[int, int], num_frames: int, name: str = "mask"
) -> Bool[np.ndarray, "T h w"]:
  """Return a mask that is true where frames are generated.

  Args:
    source: box of four numbers; path of a picture that is white there, or of a video with a mask per frame; or bool
      array [h, w] or [T, h, w].
    size: height and width of a frame.
    num_frames: number of frames T.
    name: name of the argument in errors.

  Raises:
    UserError: the source is none of these, can't be read, or leaves nothing to generate.
  """
  if isinstance(source, Sequence) and not isinstance(source, str):
    top, left, bottom, right = check_box(source, size, name)
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
  elif isinstance(source, np.ndarray) and source.dtype == bool:
    mask = source
  elif isinstance(source, (str, Path)):
    with _about(name):
      mask = _read_mask_file(as_path(source), size)
  else:
    mask = read_picture(source, size, 1, name)[..., 0] >= 128
  if mask.shape[-2:] != size or mask.ndim not in (2, 3) or (mask.ndim == 3 and len(mask) not in (1, num_frames)):
    raise UserError(f"{name}: expected one of {size[0]} x {size[1]} or {num_frames} of them, got {mask.shape}")
  if not mask.any():
    raise UserError(f"{name}: it leaves nothing to make; it should be white, or true, where something is made anew")
  return np.broadcast_to(mask, (num_frames, *size))


def check_box(box: Sequence[int], size: tuple[int, int], name: str) -> Box:
  """Return the box; raises UserError if it is not within the frame."""
  box = tuple(np.atleast_1d(np.asarray(box, object)))
  if len(box) == 4 and all(isinstance(side, (int, np.integer)) for side in box):
    top, left, bottom, right = box
    if 0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]:
      return top, left, bottom, right
  raise UserError(
      f"{name}: expected TOP, LEFT, BOTTOM, RIGHT within a frame of {size[0]} x {size[1]} pixels, got {box}")


def paste(frames: UInt8[np.ndarray, "T h w c"], box: Box, size: tuple[int, int]) -> UInt8[np.ndarray, "T H W c"]:
  """Return frames of `size` with `frames` in the box and `FILL` around it."""
  top, left, bottom, right = box
  canvas = np.full((len(frames), *size, frames.shape[-1]), FILL, np.uint8)
  canvas[:, top:bottom, left:right] = frames
  return canvas


def _open(source: Any, name: str) -> Image.Image:
  if isinstance(source, Image.Image):
    with _about(name), reading("the picture"):
      return pictures.flatten(source)
  if isinstance(source, (str, Path)):
    with _about(name):
      return Image.fromarray(pictures.read_picture(source))
  array = np.asarray(source)
  if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)) or not array.size:
    raise UserError(
        f"{name}: expected a file, a PIL image or uint8 [height, width, 1 or 3], got {array.dtype} {array.shape}")
  return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _read(
    path: Path, size: tuple[int, int], channels: int, first: int | None, last: int | None, trust: bool = True,
    background: str = "white",
) -> Clip:
  """Read a clip from a file.

  Args:
    path: path of the file.
    size, channels, first, last: arguments of `open_clip`.
    trust: whether the file's frame count decides which frames need not be scaled, since they precede the last ones.
    background: colour behind transparent pixels.
  """
  kept, count, more = deque(maxlen=last), 0, False
  with footage.open_footage(path, background=background) as shown:
    start = max(0, (shown.num_frames or 0) - last) if last is not None and trust else 0
    for frame in shown.frames:
      if count == first:
        more = True
        break
      if count >= start:
        kept.append(scale_to_cover(Image.fromarray(frame.upright()), size, channels))
      count += 1
      if last is None and count * size[0] * size[1] > limits.REQUEST_PIXELS:
        raise UserError(
            f"{path}: more than {count - 1} frames of {size[0]} x {size[1]} are more pixels than REQUEST_PIXELS, "
            f"{limits.REQUEST_PIXELS:,}; say how many frames to take (num_frames)")
    rate = shown.rate
    fps = round(rate, 6) if rate is not None and is_rate(rate) else None  # Sums of durations have rounding errors.
  if not count:
    raise UserError(f"{path}: there are no frames in it")
  if last is not None and len(kept) < min(last, count):
    return _read(path, size, channels, first, last, trust=False)
  return Clip(np.stack(kept), fps, count - len(kept), more)


def _read_mask_file(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "..."]:
  """Return where a picture, or each frame of an animated one, is white.

  Raises:
    UserError: it is transparent in parts, and has both black and white in others, so that its meaning is unclear.
  """
  with reading(str(path)), open_content(path) as content:
    image = open_picture(content)
    is_still = image is not None and not moving.is_animated(image)

  def seen(background: str) -> Bool[np.ndarray, "..."]:
    if is_still:
      return scale_to_cover(Image.fromarray(pictures.read_picture(path, background=background)), size, 1)[..., 0] >= 128
    return _read(path, size, 1, None, None, background=background).frames[..., 0] >= 128

  on_white, on_black = seen("white"), seen("black")
  shown = on_black[on_white == on_black]
  if shown.size == on_black.size or shown.all():  # White on a transparent background.
    return on_black
  if not shown.any():  # Black with transparent holes.
    return on_white
  raise UserError(
      f"{path}: it is transparent in parts, both black and white in others, so that it isn't clear what is made anew; "
      "save it without transparency")


@contextlib.contextmanager
def _about(name: str) -> Generator[None]:
  """Prefix errors with the name of the argument."""
  try:
    yield
  except ValueError as error:
    raise UserError(f"{name}: {error}") from None
