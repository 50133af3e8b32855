"""Moving digits: handwritten digits drifting over a square canvas, as arrays.

A clip shows one 8x8 digit of the UCI set that scikit-learn ships, moving `SPEED` pixels a frame in one direction and
bouncing off the walls. It starts at the wall behind it, in the middle of its lane, give or take `jitter` pixels, and so
that its first 3 moves, or as many as the canvas allows, are free.
By choice a share of digits turns twice on the way, each time after 3 to 6 moves, into another direction that a caption of
its own names. `HELD_OUT_PER_CLASS` digits of each class, 22 % of all, are kept for the test split.
Invariant: a record is a pure function of (seed, split, number of the record, canvas, num_frames), and its first frames
depend neither on num_frames nor on turns to come; any 40 records in a row that start at a multiple of 40 hold every (digit, direction) once.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import sklearn.datasets

from nova_jax.data import captions

DIGIT_SIZE = 8  # Pixels a side of a source image.
SPEED = 2  # Pixels a frame.
HELD_OUT_PER_CLASS = 40
_SPLITS = ("train", "test")
NUM_TURNS = 2  # Of a clip that turns.
LEG_MOVES = (3, 6)  # Moves from one turn to the next, at least and at most.
_STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (rows, columns)


@dataclasses.dataclass(frozen=True)
class Clip:
  """One record.

  Attributes:
    video: uint8 [T,height,width,1].
    caption: what it shows up to the first turn.
    digit: the digit.
    direction: in which it starts.
    source: place of the image in the scikit-learn set.
    wall: the last frame before it goes back from the wall ahead: up to there it goes as the caption says.
    turns: int64 [NUM_TURNS], the frames from which it moves another way; T where it doesn't.
    later_captions: what it shows from each turn on; empty where there is none.
    later_walls: int64 [NUM_TURNS], as `wall`, of the way after each turn.
  """

  video: np.ndarray
  caption: str
  digit: int
  direction: str
  source: int
  wall: int
  turns: np.ndarray
  later_captions: tuple[str, ...]
  later_walls: np.ndarray


def make_clip(
    split: str, number: int, *, canvas: int = 16, num_frames: int = 4, jitter: int = 0, free_captions: float = 0.0,
    turning: float = 0.0, seed: int = 0,
) -> Clip:
  """Draw record `number` of `split`.

  Args:
    split: "train" or "test".
    number: of the record.
    canvas: pixels a side.
    num_frames: of the clip.
    jitter: pixels by which a digit may start off the middle of its way, and off the wall behind it.
    free_captions: share of captions in free words; the others are canonical.
    turning: share of clips whose digit turns.
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
  legs = [(0, direction), *_turns(seed, split, number, direction, num_frames, turning)]
  places, walls = _path(legs, across, along, room, num_frames)
  image = source_images()[source]
  video = np.zeros((num_frames, canvas, canvas, 1), np.uint8)
  for frame, (y, x) in zip(video, places):
    frame[y:y + DIGIT_SIZE, x:x + DIGIT_SIZE, 0] = image
  choice, variant = divmod(wording, captions.NUM_PARAPHRASES)
  if choice % 1000 < 1000 * free_captions:
    texts = [captions.paraphrase(digit, direction, variant) for _, direction in legs]
  else:
    texts = [captions.caption(digit, direction) for _, direction in legs]
  missing = NUM_TURNS + 1 - len(legs)
  return Clip(
      video, texts[0], digit, direction, source, walls[0],
      turns=np.array([frame for frame, _ in legs[1:]] + [num_frames] * missing, np.int64),
      later_captions=(*texts[1:], *[""] * missing),
      later_walls=np.array(walls[1:] + [num_frames] * missing, np.int64))


def make_clips(split: str, num_clips: int, **kwargs) -> list[Clip]:
  """Draw the first `num_clips` records of `split`; arguments as of `make_clip`."""
  return [make_clip(split, number, **kwargs) for number in range(num_clips)]


def _turns(
    seed: int, split: str, number: int, direction: str, num_frames: int, turning: float
) -> list[tuple[int, str]]:
  """Draw the turns within a clip, each with the direction from there on."""
  choice, *words = (int(x) for x in _random("turns", seed, split, number).generate_state(1 + 2 * NUM_TURNS))
  turns, frame = [], 0
  if choice % 1000 < 1000 * turning:
    shortest, longest = LEG_MOVES
    for moves, way in zip(words[::2], words[1::2]):
      frame += shortest + moves % (longest - shortest + 1)
      others = [other for other in captions.DIRECTIONS if other != direction]
      direction = others[way % len(others)]
      if frame < num_frames:
        turns.append((frame, direction))
  return turns


def _path(
    legs: Sequence[tuple[int, str]], across: int, along: int, room: int, num_frames: int
) -> tuple[np.ndarray, list[int]]:
  """Return where the digit is, int64 [T,2] as (row, column), and the last frame of each leg before it goes back.

  Args:
    legs: the frames at which a way begins, and its direction.
    across: pixels from the canvas's edge to the first way.
    along: pixels from the wall behind the digit, at first.
    room: pixels between walls that a digit can move.
    num_frames: T.
  """
  places, walls = np.zeros((num_frames, 2), np.int64), []
  place = np.array([across, across])
  for number, (begin, direction) in enumerate(legs):
    end = legs[number + 1][0] if number + 1 < len(legs) else num_frames - 1
    axis, forward = int(_STEPS[direction][0] == 0), sum(_STEPS[direction]) > 0
    if number:
      along = int(place[axis] if forward else room - place[axis])
    distances = _bounce(along + SPEED * np.arange(end - begin + 1), room)  # From the wall behind the digit.
    places[begin : end + 1] = place
    places[begin : end + 1, axis] = distances if forward else room - distances
    place = places[end]
    walls.append(begin + (room - along) // SPEED)
  return places, walls


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
