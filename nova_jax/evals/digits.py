"""A score of generated moving digits that needs no one's opinion.

Over clips of asked digits and directions, five shares:
  digit           the first frame reads as the digit asked for;
  direction       over the first frames the digit moves as asked;
  same_digit      all frames read as the same digit as the first;
  retrieval@1     the digit cut from frame 1 is nearer to frame 0 of its own clip than to that of any other clip of the
  retrieval@last  same asked digit; and the same for the last frame. A model that draws a fresh digit of the right
                  class in each frame passes all but these; chance is 1 / clips of the digit.
Digits are read by a classifier trained on digits of the training split alone, found and cut as they are here.
Invariant: finding, cutting and reading a digit do not depend on where in the frame it is, nor on its clip's others.
Scores mean something beside those of real held-out clips: see `real_clips` and `table`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import sklearn.svm
from jaxtyping import Int, UInt8

from nova_jax.data import clips as clips_lib
from nova_jax.utils.errors import UserError

_SIDE = clips_lib.DIGIT_SIZE
_BACKGROUND = 24  # Darker pixels are no ink: generated backgrounds are noisy.
_NEAR_MOST = 0.98  # Windows with this share of the most ink in any are as good as the best.
_COPIES = 6  # Noisy, shifted copies of each digit that the classifier learns from.
_NOISE = 12  # Standard deviation, in steps of 255.
_SHIFTS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))


SCORES = ("digit", "direction", "same_digit", "retrieval@1", "retrieval@last")


class Share(NamedTuple):
  """A share of `count` clips, with its Wilson 95 % interval."""

  value: float
  low: float
  high: float
  count: int


def locate(frames: UInt8[np.ndarray, "n h w"]) -> Int[np.ndarray, "n 2"]:
  """Find the 8x8 window with the most ink in each frame.

  Several windows can hold all the ink of a narrow digit: the middle of those that hold nearly the most is taken, so
  that a digit is cut in the same way wherever it is. Windows may reach over the frame's edge for the same reason.

  Returns:
    Row and column of the window's upper left corner, from -7 on.
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


def cut(frames: UInt8[np.ndarray, "n h w"], places: Int[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n 8 8"]:
  """Cut the 8x8 windows at `places`, black beyond the edge."""
  pad = 2 * _SIDE
  padded = np.pad(frames, ((0, 0), (pad, pad), (pad, pad)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (_SIDE, _SIDE), (1, 2))
  rows, columns = (places + pad).T
  return windows[np.arange(len(frames)), rows, columns]


class DigitClassifier:
  """Reads a digit anywhere in a frame. Trained in about two seconds, always to the same."""

  def __init__(self):
    images = clips_lib.source_images()
    sources = np.concatenate([clips_lib.sources("train", digit) for digit in range(10)])
    rng = np.random.default_rng(0)
    crops = []
    for copy in range(_COPIES):
      frames = np.pad(images[sources], ((0, 0), (_SIDE, _SIDE), (_SIDE, _SIDE)))
      if copy:
        frames = np.clip(frames + rng.normal(0, _NOISE, frames.shape), 0, 255).astype(np.uint8)
      shifts = rng.integers(-1, 2, (len(frames), 2)) if copy else 0
      crops.append(cut(frames, locate(frames) + shifts))
    self._svc = sklearn.svm.SVC(C=10.0, gamma="scale")
    self._svc.fit(_features(np.concatenate(crops)), np.tile(clips_lib.source_classes()[sources], _COPIES))

  def read(self, frames: UInt8[np.ndarray, "n h w"]) -> Int[np.ndarray, "n"]:
    """Return the digit that each frame shows."""
    return self._svc.predict(_features(cut(frames, locate(frames))))


def score(
    clips: UInt8[np.ndarray, "n T h w"],
    digits: Sequence[int],
    directions: Sequence[str],
    classifier: DigitClassifier,
) -> dict[str, Share]:
  """Score clips against what was asked.

  Args:
    clips: pixels, any length and size.
    digits: asked for, one a clip.
    directions: asked for, of `captions.DIRECTIONS`.
    classifier: reads the digits.

  Returns:
    The shares described above, by name; for single frames "digit" alone.
  """
  if not len(clips) == len(digits) == len(directions) > 0:
    raise UserError(
        f"expected a digit and a direction for each clip, got {len(digits)} and {len(directions)} for {len(clips)}")
  if clips.dtype != np.uint8 or clips.ndim != 4:
    raise UserError(f"clips: expected uint8 [n,T,h,w], got {clips.dtype} {list(clips.shape)}")
  digits = np.asarray(digits)
  num_frames = clips.shape[1]
  frames = clips.swapaxes(0, 1)  # [T,n,h,w]
  read = np.stack([classifier.read(frame) for frame in frames])
  shares = {"digit": _share(read[0] == digits)}
  if num_frames > 1:
    shares["direction"] = _share(moves_of(frames) == np.asarray(directions))
    shares["same_digit"] = _share((read == read[0]).all(0))
    shares["retrieval@1"] = _share(_retrieved(frames[0], frames[1], digits))
    shares["retrieval@last"] = _share(_retrieved(frames[0], frames[-1], digits))
  return shares


def real_clips(num_clips: int, canvas: int, num_frames: int) -> tuple[np.ndarray, list[int], list[str]]:
  """Return held-out clips to score beside generated ones: uint8 [n,T,h,w], digits and directions.

  Up to 400 clips show different images, so that retrieval can reach 1.
  """
  clips = clips_lib.make_clips("test", num_clips, canvas=canvas, num_frames=num_frames)
  videos = np.stack([clip.video[..., 0] for clip in clips])
  return videos, [clip.digit for clip in clips], [clip.direction for clip in clips]


def table(generated: Mapping[str, Share], real: Mapping[str, Share]) -> str:
  """Lay out scores of generated clips beside those of real ones, a line each, with 95 % intervals."""
  lines = [f"{'score':<16}{'generated':>10}{'95 % interval':>18}{'real clips':>12}"]
  for name, share in generated.items():
    interval = f"{share.low:.3f} - {share.high:.3f}"
    lines.append(f"{name:<16}{share.value:>10.3f}{interval:>18}{real[name].value:>12.3f}")
  return "\n".join(lines)


def _features(crops: np.ndarray) -> np.ndarray:
  return crops.reshape(len(crops), -1) / 255


def moves_of(frames: np.ndarray) -> np.ndarray:
  """Return the direction in which the digits of `frames` [T,n,h,w] move before a bounce can come; "" if undecided."""
  last = min(len(frames) - 1, clips_lib.free_moves(min(frames.shape[2:])))
  rows, columns = (locate(frames[last]) - locate(frames[0])).T
  vertical = np.where(rows > 0, "down", "up")
  horizontal = np.where(columns > 0, "right", "left")
  decided = np.where(np.abs(rows) > np.abs(columns), vertical, horizontal)
  return np.where(np.abs(rows) == np.abs(columns), "", decided)


def _retrieved(first: np.ndarray, later: np.ndarray, digits: np.ndarray) -> np.ndarray:
  """Return, per clip, whether `later` finds its own `first` [n,h,w]; equally near ones share the success.

  Distances are the least over shifts of `later` by a pixel, as a noisy digit can be cut that much off.
  """
  wanted = _features(cut(first, locate(first)))
  places = locate(later)
  queries = [_features(cut(later, places + shift)) for shift in _SHIFTS]
  found = np.zeros(len(first))
  for digit in np.unique(digits):
    own = np.flatnonzero(digits == digit)
    distances = np.min([((query[own, None] - wanted[own]) ** 2).sum(-1) for query in queries], axis=0)
    nearest = distances <= distances.min(1, keepdims=True)
    found[own] = nearest.diagonal() / nearest.sum(1)
  return found


def _share(successes: np.ndarray) -> Share:
  """Average successes (0 … 1)."""
  n, p = len(successes), float(np.mean(successes))
  return Share(p, *wilson(p, n), n)


def wilson(p: float, n: int) -> tuple[float, float]:
  """Return the 95 % interval of a share `p` of `n` clips: Wilson's, at z = 1.96; it contains `p`."""
  z = 1.96
  middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
  return min(max(middle - half, 0.0), p), max(min(middle + half, 1.0), p)
