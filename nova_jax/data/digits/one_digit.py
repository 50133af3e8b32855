"""Moving digits: handwritten digits drifting over a square canvas, as arrays.

A clip shows one 8x8 digit of the UCI set that scikit-learn ships, moving `SPEED` pixels a frame in one direction and
bouncing off the walls. It starts at the wall behind it, in the middle of its lane, give or take `jitter` pixels, and so
that its first 3 moves, or as many as the canvas allows, are free.
By choice a fraction of the digits turns once on the way, after 3 to 8 moves, into another direction, for which the clip
has a caption of its own. `HELD_OUT_PER_CLASS` digits of each class, 22 % of all, are kept for the test split.
Invariant: a record is a pure function of (seed, split, number of the record, canvas, num_frames), and its first frames
depend neither on num_frames nor on a turn to come; any 40 records in a row that start at a multiple of 40 hold every
(digit, direction) once.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from nova_jax.data.digits import captions
from nova_jax.utils.errors import UserError

DIGIT_SIZE = 8  # Pixels a side of a source image.
SPEED = 2  # Pixels a frame.
HELD_OUT_PER_CLASS = 40
_SPLITS = ("train", "test")
MOVES_TO_TURN = (3, 8)  # At least and at most; by 8 it was at each place of its lane, on the way there and back.
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
    turn: the frame from which it moves another way; T if it never does.
    later_caption: what it shows from the turn on; empty if there is none.
    later_wall: as `wall`, of the way after the turn; T if there is none.
  """

  video: np.ndarray
  caption: str
  digit: int
  direction: str
  source: int
  wall: int
  turn: int
  later_caption: str
  later_wall: int


def make_clip(
    split: str, number: int, *, canvas: int = 16, num_frames: int = 4, jitter: int = 0,
    paraphrase_fraction: float = 0.0, turning_fraction: float = 0.0, seed: int = 0,
) -> Clip:
  """Draw record `number` of `split`.

  Args:
    split: "train" or "test".
    number: of the record.
    canvas: pixels a side.
    num_frames: of the clip.
    jitter: pixels by which a digit may start off the middle of its way, and off the wall behind it.
    paraphrase_fraction: fraction of captions that are paraphrased; the others are canonical.
    turning_fraction: fraction of clips whose digit turns.
    seed: of everything but the division into splits.

  Raises:
    UserError: an unknown split, or a canvas or length that leaves nothing to show.
  """
  check_split(split)
  if canvas < DIGIT_SIZE + SPEED:
    raise UserError(f"canvas: a digit needs at least {DIGIT_SIZE + SPEED} pixels to move, got {canvas}")
  if num_frames < 1:
    raise UserError(f"num_frames: expected at least 1, got {num_frames}")
  if not 0 <= jitter <= (canvas - DIGIT_SIZE) // 2:
    raise UserError(f"jitter: expected 0 to {(canvas - DIGIT_SIZE) // 2} pixels on a canvas of {canvas}, got {jitter}")
  visit, digit = divmod(number, 10)
  direction = captions.DIRECTIONS[visit % len(captions.DIRECTIONS)]
  source = nth_source(split, digit, visit, seed)
  across, along, wording = (int(x) for x in random_words("record", seed, split, number).generate_state(3))

  room = canvas - DIGIT_SIZE
  across = room // 2 + across % (2 * jitter + 1) - jitter
  along %= min(jitter, room - SPEED * free_moves(canvas)) + 1
  turn, later_direction = _turn(seed, split, number, direction, num_frames, turning_fraction)
  places, wall = _way(direction, (across, across), along, room, turn + 1)
  later, later_wall = np.zeros((0, 2), np.int64), num_frames
  if later_direction:
    later, later_wall = _way(later_direction, places[-1], None, room, num_frames - turn)
    later, later_wall = later[1:], turn + later_wall
  image = source_images()[source]
  video = np.zeros((num_frames, canvas, canvas, 1), np.uint8)
  for frame, (y, x) in zip(video, np.concatenate([places, later])[:num_frames], strict=True):
    frame[y:y + DIGIT_SIZE, x:x + DIGIT_SIZE, 0] = image
  choice, variant = divmod(wording, captions.NUM_PARAPHRASES)
  paraphrased = choice % 1000 < 1000 * paraphrase_fraction

  def say(way: str) -> str:
    return captions.paraphrase(digit, way, variant) if paraphrased else captions.caption(digit, way)

  return Clip(
      video, say(direction), digit, direction, source, wall, turn,
      say(later_direction) if later_direction else "", later_wall)


def make_clips(split: str, num_clips: int, **kwargs) -> list[Clip]:
  """Draw the first `num_clips` records of `split`; arguments as of `make_clip`."""
  return [make_clip(split, number, **kwargs) for number in range(num_clips)]


def _turn(
    seed: int, split: str, number: int, direction: str, num_frames: int, turning_fraction: float
) -> tuple[int, str]:
  """Draw the frame of a turn and the direction from there on; `num_frames` and "" if there is none."""
  choice, moves, way = (int(x) for x in random_words("turn", seed, split, number).generate_state(3))
  shortest, longest = MOVES_TO_TURN
  turn = shortest + moves % (longest - shortest + 1)
  if choice % 1000 >= 1000 * turning_fraction or turn >= num_frames - 1:
    return num_frames, ""
  others = [other for other in captions.DIRECTIONS if other != direction]
  return turn, others[way % len(others)]


def _way(
    direction: str, start: Sequence[int], along: int | None, room: int, num_frames: int
) -> tuple[np.ndarray, int]:
  """Return where the digit is, int64 [num_frames,2] as (row, column), and the last frame before it goes back.

  Args:
    direction: in which it goes.
    start: row and column.
    along: pixels from the wall behind the digit, if `start` does not say.
    room: pixels between walls that a digit can move.
    num_frames: how many.
  """
  axis, forward = int(_STEPS[direction][0] == 0), sum(_STEPS[direction]) > 0
  if along is None:
    along = int(start[axis] if forward else room - start[axis])
  distances = bounce(along + SPEED * np.arange(num_frames), room)  # From the wall behind the digit.
  places = np.tile(np.asarray(start, np.int64), (num_frames, 1))
  places[:, axis] = distances if forward else room - distances
  return places, (room - along) // SPEED


def free_moves(canvas: int) -> int:
  """Return how many moves every digit makes before its first bounce: 3, or what a small canvas has room for."""
  return min(3, (canvas - DIGIT_SIZE) // SPEED)


def check_split(split: str) -> None:
  """Refuse a split that there is not."""
  if split not in _SPLITS:
    raise UserError(f"split: expected one of {', '.join(_SPLITS)}, got {split!r}")


@functools.cache
def source_images() -> np.ndarray:
  """Return all source images, uint8 [1797,8,8] with the brightest ink at 255."""
  images = np.rint(_load_sources().images * (255 / 16)).astype(np.uint8)
  images.flags.writeable = False
  return images


@functools.cache
def source_classes() -> np.ndarray:
  """Return the digit that each source image shows, int64 [1797]."""
  classes = _load_sources().target
  classes.flags.writeable = False
  return classes


def _load_sources():
  import sklearn.datasets  # Slow to import, and only runs with digits need it.

  return sklearn.datasets.load_digits()


@functools.cache
def sources(split: str, digit: int) -> tuple[int, ...]:
  """Return the places of the source images of a class that belong to `split`, in a fixed random order."""
  places = np.flatnonzero(source_classes() == digit)
  places = places[_order(len(places), "split", digit)]  # No seed: no run may train on the test digits of another.
  chosen = places[:HELD_OUT_PER_CLASS] if split == "test" else places[HELD_OUT_PER_CLASS:]
  return tuple(int(place) for place in chosen)


def nth_source(split: str, digit: int, visit: int, seed: int | str) -> int:
  """Return the image that a class shows at its `visit`-th record: all once, in random order, before any again."""
  places = sources(split, digit)
  lap, position = divmod(visit, len(places))
  return places[_lap_order(len(places), seed, split, digit, lap)[position]]


@functools.lru_cache(maxsize=64)
def _lap_order(count: int, *lap: int | str) -> np.ndarray:
  return _order(count, "lap", *lap)


def _order(count: int, *key: int | str) -> np.ndarray:
  return np.argsort(random_words(*key).generate_state(count, np.uint64), kind="stable")


def random_words(*key: int | str) -> np.random.SeedSequence:
  """Return a source of random words for `key`. NumPy promises SeedSequence, unlike Generator, never to change."""
  return np.random.SeedSequence(list(" ".join(map(str, key)).encode()))


def bounce(positions: np.ndarray, room: int) -> np.ndarray:
  """Fold positions of free motion into 0 … room, as a ball between two walls."""
  folded = positions % (2 * room)
  return np.minimum(folded, 2 * room - folded)
