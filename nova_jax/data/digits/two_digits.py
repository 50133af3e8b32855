"""Two handwritten digits that cross a square canvas and pass one in front of the other, as arrays.

Each digit is an image of `one_digit.py`, enlarged to `SIDE` pixels. It goes from one wall to the one across in
`MOVES` moves, in the middle of its lane, and back again in clips that are longer. The two go in different directions,
so they meet in the middle. The digit in front hides what is behind its ink and a pixel around, which shows that it is
in front. The two are of different classes, so that a caption names each by its digit.
Invariant: a record is a pure function of (seed, split, number of the record, canvas, num_frames), and its first frames
do not depend on num_frames; any 1080 records in a row that start at a multiple of 1080 hold every (digit in front,
digit behind, their directions) once, and any 120 that start at a multiple of 120 every (digit in front, directions).
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Int, UInt8

from nova_jax.data.digits import captions, one_digit
from nova_jax.utils.errors import UserError

SIDE = 12  # Pixels a side of a digit: half as many again as its source image has.
MOVES = 7  # Moves from wall to wall.
SMALLEST_CANVAS = 32  # Pixels; on a smaller one the digits touch where they start.
INK = 24  # Darker pixels of a digit hide nothing.
PAIRS = tuple(itertools.permutations(captions.DIRECTIONS, 2))  # Of the digit in front and of the one behind.
COMBINATIONS = 10 * 9 * len(PAIRS)


@dataclasses.dataclass(frozen=True)
class TwoDigitsClip(one_digit.Clip):
  """One record: the fields of `Clip` are those of the digit in front, which never turns.

  Attributes:
    back_digit: the digit behind.
    back_direction: in which it starts.
    back_source: place of its image in the scikit-learn set.
  """

  back_digit: int
  back_direction: str
  back_source: int


def make_clip(
    split: str, number: int, *, canvas: int = SMALLEST_CANVAS, num_frames: int = MOVES + 1,
    paraphrase_fraction: float = 0.0, seed: int = 0,
) -> TwoDigitsClip:
  """Draw record `number` of `split`.

  Args:
    split: "train" or "test".
    number: number of the record.
    canvas: pixels a side.
    num_frames: number of frames.
    paraphrase_fraction: fraction of captions that are paraphrased; the others are canonical.
    seed: seed of everything but the division into splits.

  Raises:
    UserError: an unknown split, or a canvas or length that leaves nothing to show.
  """
  one_digit.check_split(split)
  if canvas < SMALLEST_CANVAS:
    raise UserError(f"canvas: two digits need at least {SMALLEST_CANVAS} pixels to cross, got {canvas}")
  if num_frames < 1:
    raise UserError(f"num_frames: expected at least 1, got {num_frames}")
  visit, digit = divmod(number, 10)
  # Shifted after each 36, the classes behind (9) and the directions (12) meet in every combination.
  back_digit = (digit + 1 + visit % 9) % 10
  direction, back_direction = PAIRS[(visit + visit // 36) % len(PAIRS)]
  source, back_source = (one_digit.nth_source(split, shown, visit, f"{seed} {role}") for shown, role in (
      (digit, "front"), (back_digit, "back")))
  front, back = (enlarge(one_digit.source_images()[place]) for place in (source, back_source))
  video = np.stack([
      draw(canvas, front, place, back, back_place)
      for place, back_place in zip(
          way(direction, canvas, num_frames), way(back_direction, canvas, num_frames), strict=True)])
  behind = back_digit, back_direction
  wording = one_digit.random_words("words", seed, split, number).generate_state(2)
  paraphrased = int(wording[0]) % 1000 < 1000 * paraphrase_fraction
  caption = (
      captions.paraphrase(digit, direction, int(wording[1]), behind) if paraphrased else
      captions.caption(digit, direction, behind))
  return TwoDigitsClip(
      video=video[..., None], caption=caption, digit=digit, direction=direction, source=source, wall=MOVES,
      turn=num_frames, later_caption="", later_wall=num_frames, back_digit=back_digit, back_direction=back_direction,
      back_source=back_source)


def way(direction: str, canvas: int, num_frames: int) -> Int[np.ndarray, "T 2"]:
  """Return row and column of a digit's upper left corner in each frame."""
  room = canvas - SIDE
  # Rounded alike on the way there and on the way back.
  distances = (2 * room * one_digit.bounce(np.arange(num_frames), MOVES) + MOVES) // (2 * MOVES)
  places = np.full((num_frames, 2), room // 2)
  axis = int(direction in ("left", "right"))
  places[:, axis] = distances if direction in ("right", "down") else room - distances
  return places


def draw(
    canvas: int, front: UInt8[np.ndarray, "side side"], place: Int[np.ndarray, "2"],
    back: UInt8[np.ndarray, "side side"], back_place: Int[np.ndarray, "2"],
) -> UInt8[np.ndarray, "canvas canvas"]:
  """Draw one digit in front of another, each with its upper left corner at its place, which the canvas has room for."""
  frame, hidden = np.zeros((canvas, canvas), np.uint8), np.zeros((canvas + 2, canvas + 2), bool)
  _put(frame, back, back_place)
  for shift in np.ndindex(3, 3):  # A pixel around the ink in all directions.
    _put(hidden, front >= INK, place + shift)
  hidden = hidden[1:-1, 1:-1]
  over = np.zeros_like(frame)
  _put(over, front, place)
  return np.where(hidden, over, np.maximum(frame, over))


def _put(canvas: np.ndarray, image: np.ndarray, place: np.ndarray) -> None:
  rows, columns = (slice(start, start + len(image)) for start in place)
  canvas[rows, columns] |= image


def enlarge(image: UInt8[np.ndarray, "8 8"]) -> UInt8[np.ndarray, "12 12"]:
  """Enlarge a digit by half: of three pixels, the middle one is the mean of its neighbours, rounded down."""
  for axis in (0, 1):
    first, last = (np.take(image, range(start, one_digit.DIGIT_SIZE, 2), axis).astype(int) for start in (0, 1))
    middle = (first + last) // 2
    image = np.stack([first, middle, last], axis + 1).reshape(
        *(SIDE if i <= axis else one_digit.DIGIT_SIZE for i in (0, 1)))
  return image.astype(np.uint8)


def shrink(images: UInt8[np.ndarray, "n 12 12"]) -> UInt8[np.ndarray, "n 8 8"]:
  """Undo `enlarge`: leave out the middle one of three pixels."""
  kept = np.flatnonzero(np.arange(SIDE) % 3 != 1)
  return images[:, kept[:, None], kept]
