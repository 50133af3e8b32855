"""From an item to a clip of a bucket's shape: which frames are taken, and how they are resized and cropped.

With fps f and stride n, frame k of a clip is the one that is shown n·k/f seconds after the first; without fps it is
the (n·k)-th. A clip has the longest bucket that its scene fills, of those the one of the nearest shape (ratio of height
to width), of those the one of the nearest size. A frame is resized to cover its bucket, and cropped around its middle.
Invariant: a clip depends on its item and the settings alone; each item is cached, skipped or rejected.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from nova_jax.config import Bucket, CacheConfig
from nova_jax.data.cache.clips.decode import open_footage
from nova_jax.data.cache.clips.motion import motion_score
from nova_jax.data.cache.items.cells import Unusable
from nova_jax.data.cache.items.item import Example, Item, Texts
from nova_jax.media.clock import is_rate
from nova_jax.media.decoding import CutOff
from nova_jax.media.footage import NEAR, Footage
from nova_jax.media.formats import Unreadable
from nova_jax.media.frame import Frame

_MOST_CROPPED = 16  # Of a frame less than one part in so many would be left.


@dataclasses.dataclass(frozen=True)
class Clip:
  """An item as pixels of a bucket's shape."""

  bucket: Bucket
  pixels: UInt8[np.ndarray, "T height width C"]
  texts: Texts
  fps: float | None
  motion_flow: float | None


@dataclasses.dataclass(frozen=True)
class Skipped:
  """An item that is sound, but has no place in the cache; `reason` is a field of `Counts`."""

  reason: str


@dataclasses.dataclass(frozen=True)
class Rejected:
  """An item that can't be used."""

  reason: str


Outcome = Clip | Skipped | Rejected


def prepare(item: Item, cfg: CacheConfig, channels: int) -> Outcome:
  """Read, decode and fit an item; whatever goes wrong with it becomes a `Rejected`.

  Args:
    item: of the source.
    cfg: the settings.
    channels: 3, or 1 for grey.
  """
  try:
    return _prepare(item, cfg, channels)
  except (Unusable, Unreadable) as error:
    return Rejected(str(error))
  except OSError as error:
    return Rejected(error.strerror or str(error))
  except Exception as error:  # Libraries raise anything over files that are made to break them.
    return Rejected(f"{type(error).__name__}: {error}")


def _prepare(item: Item, cfg: CacheConfig, channels: int) -> Outcome:
  if item.problem:
    raise Unusable(item.problem)
  assert item.media is not None, item
  media = item.media.read() if isinstance(item.media, Example) else item.media
  texts = item.texts(cfg, media if isinstance(media, Mapping) else None)
  with open_footage(media, texts.start, texts.end) as footage:
    found = _still(footage, cfg.buckets) if footage.still else _clip(footage, cfg)
  if isinstance(found, Skipped):
    return found
  bucket, pixels = found
  fps, flow = None, None
  if bucket[0] > 1:
    rate = cfg.fps or (footage.rate if is_rate(footage.rate) else None)
    fps, flow = rate and rate / cfg.stride, motion_score(pixels)
  if channels == 1:
    pixels = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pixels])[..., None]
  return Clip(bucket, pixels, texts, fps, flow)


def _still(footage: Footage, buckets: Sequence[Bucket]) -> tuple[Bucket, np.ndarray] | Skipped:
  frame = next(footage.frames, None)
  if frame is None:
    raise Unusable("it is a picture, and the part asked for begins after it")
  bucket = nearest(frame.shape, [bucket for bucket in buckets if bucket[0] == 1])
  return Skipped("no_bucket") if bucket is None else (bucket, fit(frame, bucket[1:])[None])


def _clip(footage: Footage, cfg: CacheConfig) -> tuple[Bucket, np.ndarray] | Skipped:
  """Take as many frames as the longest bucket has, and keep the longest that they fill."""
  moving = [bucket for bucket in cfg.buckets if bucket[0] > 1] or cfg.buckets
  lengths = sorted({bucket[0] for bucket in moving})
  wanted: dict[int, Bucket | None] = {}  # By length.
  fitted: dict[tuple[int, int], list[np.ndarray]] = {}  # By height and width.
  count, decoded = 0, _Counted(footage.frames)
  for frame in choose(decoded, footage.rate, cfg.fps, cfg.stride):
    if not wanted:
      wanted = {length: nearest(frame.shape, [b for b in cfg.buckets if b[0] == length]) for length in {1, *lengths}}
    for size in {bucket[1:] for length, bucket in wanted.items() if bucket is not None and length > count}:
      fitted.setdefault(size, []).append(fit(frame, size))
    count += 1
    if count == lengths[-1]:
      break
  if count < lengths[0] and decoded.cut_off:
    raise decoded.cut_off
  if not count:
    raise Unusable("there are no frames in it, or in the part asked for")
  # A video of one frame is a still, however often `fps` repeats it.
  length = 1 if count == 1 or decoded.count == 1 else max((length for length in lengths if length <= count), default=0)
  bucket = wanted.get(length)
  if bucket is None:
    return Skipped("too_short")
  return bucket, np.stack(fitted[bucket[1:]][:length])


class _Counted:
  """Frames that are counted as they pass; a file that is cut off has those that are there."""

  def __init__(self, frames: Iterable[Frame]):
    self._frames, self.count, self.cut_off = frames, 0, None

  def __iter__(self) -> Iterator[Frame]:
    try:
      for frame in self._frames:
        self.count += 1
        yield frame
    except CutOff as error:
      self.cut_off = error


def choose(frames: Iterable[Frame], rate: float | None, fps: float, stride: int) -> Iterator[Frame]:
  """Choose the frames of a clip; see the top of this file.

  Args:
    frames: in the order of their times.
    rate: of `frames`, which says how long the last is shown; None if it isn't known.
    fps: frames a second, or 0 for all.
    stride: takes every n-th of those.

  Raises:
    Unusable: fps is asked for, but times aren't known.
  """
  if not fps:
    for number, frame in enumerate(frames):
      if number % stride == 0:
        yield frame
    return
  if rate is None:
    raise Unusable("its frame rate is not known: cache it with fps 0, which takes every frame")
  shown, number, first = None, 0, 0.0

  def due(shown: Frame, until: float) -> Iterator[Frame]:
    nonlocal number
    while first + number * stride / fps < until - NEAR:
      number += 1
      yield shown

  for frame in frames:
    if shown is None:
      first = frame.time
    else:
      yield from due(shown, frame.time)
    shown = frame
  if shown is not None:
    yield from due(shown, shown.time + 1 / rate)


def nearest(shape: tuple[float, float], buckets: Sequence[Bucket]) -> Bucket | None:
  """Return the bucket nearest in shape, then in size, to frames of some height and width; the first of equals."""
  height, width = shape

  def distance(bucket: Bucket) -> tuple[float, float]:
    ratio = math.log(bucket[1] / bucket[2] * width / height)
    return round(abs(ratio), 6), abs(math.log(bucket[1] * bucket[2] / (height * width)))

  return min(buckets, key=distance, default=None)


def fit(frame: Frame, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
  """Resize a frame to cover a height and width, keeping its shape, and crop it around its middle.

  Raises:
    Unusable: hardly anything of it would be left.
  """
  height, width = size[::-1] if frame.turns % 2 else size  # As the frame is stored.
  rows, columns = frame.image.height, frame.image.width * frame.stretch
  scale = max(height / rows, width / columns)
  rows, columns = max(height, round(rows * scale)), max(width, round(columns * scale))
  if rows * columns > _MOST_CROPPED * height * width:
    shape = " x ".join(f"{side:g}" for side in frame.shape)
    raise Unusable(f"its shape, {shape}, is too far from {size[0]} x {size[1]}")
  top, left = (rows - height) // 2, (columns - width) // 2
  return frame.turn(frame.stored(rows, columns)[top : top + height, left : left + width])
