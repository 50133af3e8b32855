"""An objective score for generated moving digits.

Five proportions over clips with requested digits and directions:
  digit           the first frame is read as the requested digit;
  direction       over the first frames the digit moves in the requested direction;
  same_digit      all frames are read as the same digit as the first;
  retrieval@1     the digit in frame 1 is nearer to frame 0 of its own clip than to that of any other clip of the same
  retrieval@last  requested digit; and the same for the last frame. A model that draws a new digit of the right class
                  in each frame passes all others; chance is 1 / number of clips of the digit.
A classifier reads the digits. It is trained only on digits of the training split, located and cropped as here.
Invariant: locating, cropping and reading a digit do not depend on its position or on the other frames of its clip.
Compare scores with those of real held-out clips; see `real_clips` and `table`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from nova_jax.data.digits import one_digit
from nova_jax.utils.errors import UserError

_SIDE = one_digit.DIGIT_SIZE
_BACKGROUND = 24  # Darker pixels don't count as ink, since generated backgrounds are noisy.
_NEAR_MOST = 0.98  # Windows with this fraction of the largest amount of ink count as equally good.
_COPIES = 6  # Number of noisy, shifted copies of each digit to train the classifier on.
_NOISE = 12  # Standard deviation of their noise, in steps of 255.
SHIFTS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))


SCORES = ("digit", "direction", "same_digit", "retrieval@1", "retrieval@last")


class Proportion(NamedTuple):
  """A proportion of `count` clips with its 95 % Wilson interval."""

  value: float
  low: float
  high: float
  count: int


def locate(frames: UInt8[np.ndarray, "n h w"]) -> Int[np.ndarray, "n 2"]:
  """Find the 8x8 window with the most ink in each frame.

  Several windows can contain all the ink of a narrow digit. The middle one of those with nearly the most ink is chosen,
  so that a digit is cropped in the same way at every position. For the same reason windows may extend over the edge.

  Returns:
    Row and column of the window's upper left corner; both are at least −7.
  """
  pad = _SIDE - 1
  ink = np.where(frames < _BACKGROUND, 0, frames).astype(np.int64)
  totals = np.pad(ink, ((0, 0), (pad + 1, pad), (pad + 1, pad))).cumsum(1).cumsum(2)
  strips = totals[:, _SIDE:] - totals[:, :-_SIDE]
  sums = strips[:, :, _SIDE:] - strips[:, :, :-_SIDE]
  best = sums >= _NEAR_MOST * sums.max((1, 2), keepdims=True)
  count = best.sum((1, 2))
  rows = (best.sum(2) * np.arange(best.shape[1])).sum(1) / count
  columns = (best.sum(1) * np.arange(best.shape[2])).sum(1) / count
  return np.floor(np.stack([rows, columns], 1) + 0.5).astype(np.int64) - pad


def crop(
    frames: UInt8[np.ndarray, "n h w"], places: Int[np.ndarray, "n 2"], side: int = _SIDE
) -> UInt8[np.ndarray, "n side side"]:
  """Crop the windows whose corners are at `places`, with black beyond the edge."""
  pad = 2 * side
  padded = np.pad(frames, ((0, 0), (pad, pad), (pad, pad)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
  rows, columns = (places + pad).T
  return windows[np.arange(len(frames)), rows, columns]


class DigitClassifier:
  """Reads a digit anywhere in a frame. Training takes about two seconds and is deterministic."""

  def __init__(self):
    import sklearn.svm  # Slow to import, and only scores of digits need it.

    images = one_digit.source_images()
    sources = np.concatenate([one_digit.sources("train", digit) for digit in range(10)])
    rng = np.random.default_rng(0)
    crops = []
    for copy in range(_COPIES):
      frames = np.pad(images[sources], ((0, 0), (_SIDE, _SIDE), (_SIDE, _SIDE)))
      if copy:
        frames = np.clip(frames + rng.normal(0, _NOISE, frames.shape), 0, 255).astype(np.uint8)
      shifts = rng.integers(-1, 2, (len(frames), 2)) if copy else 0
      crops.append(crop(frames, locate(frames) + shifts))
    self._svc = sklearn.svm.SVC(C=10.0, gamma="scale")
    self._svc.fit(flatten(np.concatenate(crops)), np.tile(one_digit.source_classes()[sources], _COPIES))

  def read(self, frames: UInt8[np.ndarray, "n h w"]) -> Int[np.ndarray, "n"]:
    """Return the digit that each frame shows."""
    return self._svc.predict(flatten(crop(frames, locate(frames))))


def score(
    clips: UInt8[np.ndarray, "n T h w"],
    digits: Sequence[int] | Int[np.ndarray, "n"],
    directions: Sequence[str],
    classifier: DigitClassifier,
) -> dict[str, Proportion]:
  """Score clips against the requested digits and directions.

  Args:
    clips: pixels of clips of any length and size.
    digits: requested digit of each clip.
    directions: requested direction of each clip, one of `captions.DIRECTIONS`.
    classifier: classifier that reads the digits.

  Returns:
    The proportions described above by name; only "digit" for single frames.
  """
  if not len(clips) == len(digits) == len(directions) > 0:
    raise UserError(
        f"expected a digit and a direction for each clip, got {len(digits)} and {len(directions)} for {len(clips)}")
  if clips.dtype != np.uint8 or clips.ndim != 4:
    raise UserError(f"clips: expected uint8 [n,T,h,w], got {clips.dtype} {list(clips.shape)}")
  requested = np.asarray(digits)
  num_frames = clips.shape[1]
  frames = clips.swapaxes(0, 1)  # [T,n,h,w]
  read = np.stack([classifier.read(frame) for frame in frames])
  shares = {"digit": proportion(read[0] == requested)}
  if num_frames > 1:
    shares["direction"] = proportion(movement_directions(frames) == np.asarray(directions))
    shares["same_digit"] = proportion((read == read[0]).all(0))
    shares["retrieval@1"] = proportion(_remembered(frames[0], frames[1], requested))
    shares["retrieval@last"] = proportion(_remembered(frames[0], frames[-1], requested))
  return shares


def real_clips(num_clips: int, canvas: int, num_frames: int) -> tuple[np.ndarray, list[int], list[str]]:
  """Return held-out clips to compare with: pixels uint8 [n, T, h, w], digits and directions.

  Up to 400 clips show different images, so that retrieval can reach 1.
  """
  clips = one_digit.make_clips("test", num_clips, canvas=canvas, num_frames=num_frames)
  videos = np.stack([clip.video[..., 0] for clip in clips])
  return videos, [clip.digit for clip in clips], [clip.direction for clip in clips]


def table(generated: Mapping[str, Proportion], real: Mapping[str, Proportion]) -> str:
  """Format scores of generated and real clips as a table with 95 % intervals."""
  lines = [f"{'score':<16}{'generated':>10}{'95 % interval':>18}{'real clips':>12}"]
  for name, share in generated.items():
    interval = f"{share.low:.3f} - {share.high:.3f}"
    lines.append(f"{name:<16}{share.value:>10.3f}{interval:>18}{real[name].value:>12.3f}")
  return "\n".join(lines)


def flatten(crops: UInt8[np.ndarray, "n side side"]) -> Float[np.ndarray, "n k"]:
  """Return crops as vectors to compare, black at 0 and white at 1."""
  return crops.reshape(len(crops), -1) / 255


def movement_directions(frames: np.ndarray) -> np.ndarray:
  """Return the direction in which digits in `frames` [T, n, h, w] move before any bounce; "" if undecided."""
  last = min(len(frames) - 1, one_digit.free_moves(min(frames.shape[2:])))
  rows, columns = (locate(frames[last]) - locate(frames[0])).T
  vertical = np.where(rows > 0, "down", "up")
  horizontal = np.where(columns > 0, "right", "left")
  decided = np.where(np.abs(rows) > np.abs(columns), vertical, horizontal)
  return np.where(np.abs(rows) == np.abs(columns), "", decided)


def _remembered(first: np.ndarray, later: np.ndarray, digits: np.ndarray) -> np.ndarray:
  """Return whether the digit in `later` is nearest to its own `first` [n, h, w], per clip.

  Distances are minimal over shifts of `later` by one pixel, since noise can displace a crop by that much.
  """
  places = locate(later)
  queries = [flatten(crop(later, places + shift)) for shift in SHIFTS]
  return retrieved(flatten(crop(first, locate(first))), queries, digits)


def retrieved(
    wanted: Float[np.ndarray, "n k"], queries: Sequence[Float[np.ndarray, "n k"]], digits: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
  """Return whether a query finds its own vector among all of its digit; ties share the success.

  Args:
    wanted: vector to find, of each clip.
    queries: variants of each clip's query, of which the nearest counts.
    digits: digit of each clip.
  """
  found = np.zeros(len(wanted))
  for digit in np.unique(digits):
    own = np.flatnonzero(digits == digit)
    distances = np.min([((query[own, None] - wanted[own]) ** 2).sum(-1) for query in queries], axis=0)
    nearest = distances <= distances.min(1, keepdims=True)
    found[own] = nearest.diagonal() / nearest.sum(1)
  return found


def proportion(successes: np.ndarray) -> Proportion:
  """Return the proportion of successes, which are from 0 to 1."""
  n, p = len(successes), float(np.mean(successes))
  return Proportion(p, *wilson(p, n), n)


def wilson(p: float, n: int) -> tuple[float, float]:
  """Return the 95 % Wilson interval (z = 1.96) of a proportion `p` of `n` clips."""
  z = 1.96
  middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
  return min(max(middle - half, 0.0), p), max(min(middle + half, 1.0), p)
