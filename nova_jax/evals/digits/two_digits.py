"""An objective score for two generated digits that cross, one in front of the other.

Five proportions over clips with requested digits, directions and order:
  digits          both requested digits are read in the first frame;
  directions      both start at the wall behind them, move away from it, and are at the wall ahead in the last frame;
  depth           where the two overlap, the requested one is in front;
  same_digits     both are read in the last frame, each at the end of its own way, as the digits that they were in the
                  first;
  retrieval@last  both are nearer to their own first frame than to that of any other clip of the same requested digit;
                  chance is (1 / number of clips of the digit) squared.
The digits are those that lie at two of the four walls in the first frame. Which one is the requested one is told by its
class, and by its wall where classes leave that open. So a wrong digit, a wrong direction, a wrong order and an exchange
on the way each lower a score of their own. For the depth each frame between the first and the last is
drawn in both orders, with the digits as the nearer of these two shows them; the nearer drawing tells who is in front.
Invariant: real clips score 1, up to the classifier's errors; see `real_clips`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from nova_jax.data.digits import two_digits
from nova_jax.data.digits.captions import DIRECTIONS, Mover
from nova_jax.data.digits.two_digits import MOVES, SIDE, SMALLEST_CANVAS
from nova_jax.evals.digits.one_digit import SHIFTS, DigitClassifier, Proportion, crop, flatten, proportion, retrieved
from nova_jax.utils.errors import UserError

SCORES = ("digits", "directions", "depth", "same_digits", "retrieval@last")
NUM_FRAMES = MOVES + 1
_ROLES = 2  # The digit in front, and the one behind.
_MORE_INK = 1.05  # A pixel off, a crop may hold a little of the other digit, too.


def score(
    clips: UInt8[np.ndarray, "n T h w"], digits: Sequence[int], directions: Sequence[str], behind: Sequence[Mover],
    classifier: DigitClassifier,
) -> dict[str, Proportion]:
  """Score clips, of which the first `NUM_FRAMES` count.

  Args:
    clips: pixels of clips.
    digits: requested digit in front of each clip.
    directions: its direction.
    behind: requested digit behind it, and the direction of that.
    classifier: classifier that reads the digits.

  Returns:
    The proportions described above by name.

  Raises:
    UserError: no clips, other numbers of requests than of clips, or clips that end before the digits have crossed.
  """
  clips = _checked(clips, digits, directions, behind)[:, :NUM_FRAMES]
  requested, ways = _requests(digits, directions, behind)
  frames = clips.swapaxes(0, 1)
  routes = np.stack([two_digits.way(way, clips.shape[2], NUM_FRAMES) for way in DIRECTIONS])  # [4,T,2]
  walls = _fullest(frames[0], routes[:, 0])
  seen = _read(frames[0], routes[walls, 0], classifier)
  swapped = _matches(seen, walls, requested[:, ::-1], ways[:, ::-1]) > _matches(seen, walls, requested, ways)
  walls, seen = (np.where(swapped[:, None], found[:, ::-1], found) for found in (walls, seen))
  moved = _moves(frames, routes, walls)
  first, last = (_crops(frames[t], routes[walls, t]) for t in (0, MOVES))  # [n,2,side,side]
  return {
      "digits": proportion((seen == requested).all(1)),
      "directions": proportion((moved & (walls == ways)).all(1)),
      "depth": proportion(moved.all(1) & _in_front(clips, routes[walls], first, last)),
      "same_digits": proportion((_read(frames[MOVES], routes[walls, MOVES], classifier) == seen).all(1)),
      "retrieval@last": proportion(_remembered(frames[0], frames[MOVES], routes[walls], MOVES, requested))}


def scores_by_frame(
    clips: UInt8[np.ndarray, "n T h w"], digits: Sequence[int], directions: Sequence[str], behind: Sequence[Mover],
    classifier: DigitClassifier,
) -> dict[int, dict[str, Proportion]]:
  """Score single frames of clips of any length, to see how they drift.

  Args:
    clips, digits, directions, behind, classifier: arguments of `score`.

  Returns:
    By the number of the frame, for each in which both digits are at their walls: "digits", whether both requested ones
    are read where their ways lead, and "retrieval", whether both are nearest to their own first frame.
  """
  clips = _checked(clips, digits, directions, behind)
  requested, ways = _requests(digits, directions, behind)
  num_frames = clips.shape[1]
  routes = np.stack([two_digits.way(way, clips.shape[2], num_frames) for way in DIRECTIONS])[ways]
  return {
      frame: {
          "digits": proportion((_read(clips[:, frame], routes[:, :, frame], classifier) == requested).all(1)),
          "retrieval": proportion(_remembered(clips[:, 0], clips[:, frame], routes, frame, requested))}
      for frame in range(0, num_frames, MOVES)}


def real_clips(
    num_clips: int, canvas: int, num_frames: int
) -> tuple[UInt8[np.ndarray, "n T h w"], list[int], list[str], list[Mover]]:
  """Return held-out clips to compare with, and what they show, as `score` takes it.

  Up to 400 clips show each image once in front and once behind, so that retrieval can reach 1.
  """
  clips = [two_digits.make_clip("test", number, canvas=canvas, num_frames=num_frames) for number in range(num_clips)]
  return (
      np.stack([clip.video[..., 0] for clip in clips]), [clip.digit for clip in clips],
      [clip.direction for clip in clips], [(clip.back_digit, clip.back_direction) for clip in clips])


def _checked(clips: np.ndarray, *requests: Sequence) -> UInt8[np.ndarray, "n T h w"]:
  if clips.dtype != np.uint8 or clips.ndim != 4:
    raise UserError(f"clips: expected uint8 [n,T,h,w], got {clips.dtype} {list(clips.shape)}")
  if clips.shape[1] < NUM_FRAMES or min(clips.shape[2:]) < SMALLEST_CANVAS:
    raise UserError(f"clips: two digits cross within {NUM_FRAMES} frames of {SMALLEST_CANVAS} pixels a side, got "
                    f"{list(clips.shape[1:])}")
  if not clips.size or {len(requested) for requested in requests} != {len(clips)}:
    raise UserError(f"expected a request for each clip, got {[*map(len, requests)]} for {len(clips)}")
  return clips


def _requests(
    digits: Sequence[int], directions: Sequence[str], behind: Sequence[Mover]
) -> tuple[Int[np.ndarray, "n 2"], Int[np.ndarray, "n 2"]]:
  """Return the digits and the numbers of the directions, in front and behind."""
  number = {way: i for i, way in enumerate(DIRECTIONS)}
  return (
      np.array([(digit, back) for digit, (back, _) in zip(digits, behind, strict=True)]),
      np.array([(number[way], number[back]) for way, (_, back) in zip(directions, behind, strict=True)]))


def _fullest(frames: UInt8[np.ndarray, "n h w"], walls: Int[np.ndarray, "4 2"]) -> Int[np.ndarray, "n 2"]:
  """Return the two of four places that have the most ink, ascending."""
  ink = np.stack([crop(frames, np.tile(place, (len(frames), 1)), SIDE).sum((1, 2), dtype=int) for place in walls], 1)
  return np.sort(np.argsort(-ink, axis=1, kind="stable")[:, :_ROLES], axis=1)


def _matches(seen: np.ndarray, walls: np.ndarray, requested: np.ndarray, ways: np.ndarray) -> Int[np.ndarray, "n"]:
  """Return how well found digits fit requests: any class counts for more than all walls."""
  return ((_ROLES + 1) * (seen == requested) + (walls == ways)).sum(1)


def _crops(frames: UInt8[np.ndarray, "n h w"], places: Int[np.ndarray, "n 2 2"]) -> UInt8[np.ndarray, "n 2 side side"]:
  """Return what is at the two places of each frame, or a pixel off where clearly more ink is."""
  found = []
  for place in places.swapaxes(0, 1):
    near = np.stack([crop(frames, place + shift, SIDE) for shift in ((0, 0), *SHIFTS)], 1)
    ink = np.where(near < two_digits.INK, 0, near).sum((2, 3), dtype=int)
    most = np.where(ink.max(1) > _MORE_INK * ink[:, 0], ink.argmax(1), 0)
    found.append(near[np.arange(len(near)), most])
  return np.stack(found, 1)


def _read(frames: np.ndarray, places: np.ndarray, classifier: DigitClassifier) -> Int[np.ndarray, "n 2"]:
  """Return the digits at the two places of each frame."""
  shrunk = two_digits.shrink(_crops(frames, places).reshape(-1, SIDE, SIDE))
  return classifier.read(np.pad(shrunk, ((0, 0), (SIDE, SIDE), (SIDE, SIDE)))).reshape(-1, _ROLES)


def _moves(
    frames: UInt8[np.ndarray, "T n h w"], routes: Int[np.ndarray, "4 T 2"], walls: Int[np.ndarray, "n 2"]
) -> Bool[np.ndarray, "n 2"]:
  """Return whether the digit from a wall leaves it for the one across: what it shows does not matter."""
  ends = _fullest(frames[MOVES], routes[:, MOVES])
  steps = routes[:, 1] - routes[:, 0]
  starts = routes[walls, 0]
  templates = _crops(frames[0], starts)
  moved = []
  for role in range(_ROLES):
    start, template, wall = starts[:, role], flatten(templates[:, role]), walls[:, role]
    distances = [_distance(template, frames[1], start + step, SHIFTS) for step in steps]
    still = _distance(template, frames[1], start, ((0, 0),))
    moved.append((np.argmin([*distances, still], 0) == wall) & (ends == wall[:, None]).any(1))
  return np.stack(moved, 1)


def _distance(
    template: Float[np.ndarray, "n k"], frames: UInt8[np.ndarray, "n h w"], places: Int[np.ndarray, "n 2"],
    shifts: Sequence[tuple[int, int]],
) -> Float[np.ndarray, "n"]:
  """Return how far what is at a place of each frame, or a shift away, is from a template."""
  return np.min([np.square(flatten(crop(frames, places + shift, SIDE)) - template).sum(1) for shift in shifts], 0)


def _in_front(
    clips: UInt8[np.ndarray, "n T h w"], routes: Int[np.ndarray, "n 2 T 2"], first: np.ndarray, last: np.ndarray
) -> Bool[np.ndarray, "n"]:
  """Return whether the first of the two digits is in front where they overlap."""
  found = np.zeros(len(clips), bool)
  for i, (clip, places) in enumerate(zip(clips, routes, strict=True)):
    def distance(front: int, i=i, clip=clip, places=places) -> float:
      total = 0.0
      for t in range(1, MOVES):
        shown = (first if t <= MOVES // 2 else last)[i]
        drawn = two_digits.draw(
            clip.shape[1], shown[front], places[front, t], shown[1 - front], places[1 - front, t])
        total += np.square(drawn.astype(float) - clip[t]).sum()
      return total

    found[i] = distance(0) < distance(1)
  return found


def _remembered(
    first: UInt8[np.ndarray, "n h w"], later: UInt8[np.ndarray, "n h w"], routes: Int[np.ndarray, "n 2 T 2"],
    frame: int, requested: Int[np.ndarray, "n 2"],
) -> Float[np.ndarray, "n"]:
  """Return whether both digits of frame `frame` are nearest to their own first frames; ties share the success."""
  found, started = np.ones(len(first)), _crops(first, routes[:, :, 0])
  for role in range(_ROLES):
    wanted = flatten(started[:, role])
    queries = [flatten(crop(later, routes[:, role, frame] + shift, SIDE)) for shift in SHIFTS]
    found *= retrieved(wanted, queries, requested[:, role])
  return found
