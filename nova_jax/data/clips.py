"""Moving digits: handwritten digits drifting over a square canvas, as arrays.

A clip shows one 8x8 digit of the UCI set that scikit-learn ships, moving `SPEED` pixels a frame in one direction and
bouncing off the walls. It starts at the wall behind it, in the middle of its lane, give or take `jitter` pixels, and so
that its first 3 moves, or as many as the canvas allows, are free.
`HELD_OUT_PER_CLASS` digits of each class, 22 % of all, are kept for the test split.
Invariant: a record is a pure function of (seed, split, number of the record, canvas, num_frames), and its first frames
do not depend on num_frames; any 40 records in a row that start at a multiple of 40 hold every (digit, direction) once.
"""

import dataclasses
import functools

import numpy as np
import sklearn.datasets

from nova_jax.data import captions

DIGIT_SIZE = 8  # Pixels a side of a source image.
SPEED = 2  # Pixels a frame.
HELD_OUT_PER_CLASS = 40
_SPLITS = ("train", "test")
_STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (rows, columns)


@dataclasses.dataclass(frozen=True)
class Clip:
  """One record: `video` uint8 [T,height,width,1] and what it shows."""

  video: np.ndarray
  caption: str
  digit: int
  direction: str
  source: int  # Place of the image in the scikit-learn set.
  wall: int  # The last frame before it goes back from the wall ahead: up to there it goes as the caption says.


def make_clip(
    split: str, number: int, *, canvas: int = 16, num_frames: int = 4, jitter: int = 0, free_captions: float = 0.0,
    seed: int = 0,
) -> Clip:
  """Draw record `number` of `split`.

  Args:
    split: "train" or "test".
    number: of the record.
    canvas: pixels a side.
    num_frames: of the clip.
    jitter: pixels by which a digit may start off the middle of its way, and off the wall behind it.
    free_captions: share of captions in free words; the others are canonical.
    seed: of everything but the division into splits.

  Raises:
    ValueError: an unknown split, or a canvas or length that leaves nothing to show.
  """
  if split not in _SPLITS:
    raise ValueError(f"split: expected one of {', '.join(_SPLITS)}, got {split!r}")
  if canvas < DIGIT_SIZE + SPEED:
    raise ValueError(f"canvas: a digit needs at least {DIGIT_SIZE + SPEED} pixels to move, got {canvas}")
  if num_frames < 1:
    raise ValueError(f"num_frames: expected at least 1, got {num_frames}")
  if not 0 <= jitter <= (canvas - DIGIT_SIZE) // 2:
    raise ValueError(f"jitter: expected 0 to {(canvas - DIGIT_SIZE) // 2} pixels on a canvas of {canvas}, got {jitter}")
  turn, digit = divmod(number, 10)
  direction = captions.DIRECTIONS[turn % len(captions.DIRECTIONS)]
  source = _nth_source(split, digit, turn, seed)
  across, along, wording = (int(x) for x in _random("record", seed, split, number).generate_state(3))

  room = canvas - DIGIT_SIZE
  across = room // 2 + across % (2 * jitter + 1) - jitter
  along %= min(jitter, room - SPEED * free_moves(canvas)) + 1
  distances = _bounce(along + SPEED * np.arange(num_frames), room)  # From the wall behind the digit.
  rows, columns = _STEPS[direction]
  if rows + columns < 0:
    distances = room - distances
  image = source_images()[source]
  video = np.zeros((num_frames, canvas, canvas, 1), np.uint8)
  for frame, distance in zip(video, distances):
    y, x = (distance, across) if rows else (across, distance)
    frame[y:y + DIGIT_SIZE, x:x + DIGIT_SIZE, 0] = image
  choice, variant = divmod(wording, captions.NUM_PARAPHRASES)
  if choice % 1000 < 1000 * free_captions:
    text = captions.paraphrase(digit, direction, variant)
  else:
    text = captions.caption(digit, direction)
  return Clip(video, text, digit, direction, source, wall=(room - along) // SPEED)


def make_clips(split: str, num_clips: int, **kwargs) -> list[Clip]:
  """Draw the first `num_clips` records of `split`; arguments as of `make_clip`."""
  return [make_clip(split, number, **kwargs) for number in range(num_clips)]


def free_moves(canvas: int) -> int:
  """Return how many moves every digit makes before its first bounce: 3, or what a small canvas has room for."""
  return min(3, (canvas - DIGIT_SIZE) // SPEED)


@functools.cache
def source_images() -> np.ndarray:
  """Return all source images, uint8 [1797,8,8] with the brightest ink at 255."""
  images = np.rint(sklearn.datasets.load_digits().images * (255 / 16)).astype(np.uint8)
  images.flags.writeable = False
  return images


@functools.cache
def source_classes() -> np.ndarray:
  """Return the digit that each source image shows, int64 [1797]."""
  classes = sklearn.datasets.load_digits().target
  classes.flags.writeable = False
  return classes


@functools.cache
def sources(split: str, digit: int) -> tuple[int, ...]:
  """Return the places of the source images of a class that belong to `split`, in a fixed random order."""
  places = np.flatnonzero(source_classes() == digit)
  places = places[_order(len(places), "split", digit)]  # No seed: no run may train on the test digits of another.
  chosen = places[:HELD_OUT_PER_CLASS] if split == "test" else places[HELD_OUT_PER_CLASS:]
  return tuple(int(place) for place in chosen)


def _nth_source(split: str, digit: int, turn: int, seed: int) -> int:
  """Return the image that a class shows at its `turn`-th record: all once, in random order, before any again."""
  places = sources(split, digit)
  lap, position = divmod(turn, len(places))
  return places[_lap_order(len(places), seed, split, digit, lap)[position]]


@functools.lru_cache(maxsize=64)
def _lap_order(count: int, *lap: int | str) -> np.ndarray:
  return _order(count, "lap", *lap)


def _order(count: int, *key: int | str) -> np.ndarray:
  return np.argsort(_random(*key).generate_state(count, np.uint64), kind="stable")


def _random(*key: int | str) -> np.random.SeedSequence:
  """Return a source of random words for `key`. NumPy promises SeedSequence, unlike Generator, never to change."""
  return np.random.SeedSequence(list(" ".join(map(str, key)).encode()))


def _bounce(positions: np.ndarray, room: int) -> np.ndarray:
  """Fold positions of free motion into 0 … room, as a ball between two walls."""
  folded = positions % (2 * room)
  return np.minimum(folded, 2 * room - folded)
