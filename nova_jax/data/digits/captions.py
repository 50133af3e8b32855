"""Captions of one moving digit, or of two of which one passes in front of the other, in plain and in free words.

`caption` is the one wording that prompts and scores use: "the digit seven moves left", or "the digit three moves left
in front of the digit seven, which moves up". `paraphrase` says the same in other words, so that a model meets
numerals, other verbs and other orders of words.
Invariant: a caption is a pure function of the digits, directions, order and variant, and tells digits and directions.
"""

import re
from collections.abc import Sequence

from nova_jax.utils.errors import UserError

DIRECTIONS = ("left", "right", "up", "down")
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Templates by the number of digits. The first digit of two is the one in front.
_CANONICAL = {
    1: "the digit {0[word]} moves {0[direction]}",
    2: "the digit {0[word]} moves {0[direction]} in front of the digit {1[word]}, which moves {1[direction]}",
}
_PARAPHRASES = {
    1: (
        "{0[article]} {0[digit]} drifting {0[toward]}",
        "{0[word]} slides {0[direction]}ward",
        "the number {0[word]} goes {0[direction]}",
        "a handwritten {0[digit]} travels {0[toward]}",
        "{0[direction]}ward glides the digit {0[word]}",
        "the numeral {0[digit]} is moving {0[direction]}",
        "watch the {0[word]} head {0[toward]}",
        "moving {0[direction]}: the number {0[digit]}",
    ),
    2: (
        "{0[article]} {0[digit]} drifting {0[toward]} passes before {1[article]} {1[digit]} drifting {1[toward]}",
        "{1[word]} slides {1[direction]}ward behind {0[word]}, which slides {0[direction]}ward",
        "the number {0[word]} goes {0[direction]} and covers the number {1[word]}, which goes {1[direction]}",
        "behind a handwritten {0[digit]} that travels {0[toward]}, {1[article]} {1[digit]} travels {1[toward]}",
        "{1[direction]}ward glides the digit {1[word]}, hidden for a moment by the {0[word]} that glides "
        "{0[direction]}ward",
        "the numeral {0[digit]} is moving {0[direction]} over the numeral {1[digit]} moving {1[direction]}",
        "watch the {1[word]} head {1[toward]} and pass under the {0[word]} that heads {0[toward]}",
        "in front: {0[digit]} moving {0[direction]}; behind: {1[digit]} moving {1[direction]}",
    ),
}
_TOWARD = {"left": "to the left", "right": "to the right", "up": "to the top", "down": "to the bottom"}
NUM_PARAPHRASES = len(_PARAPHRASES[1])  # For any number of digits.
Mover = tuple[int, str]  # A digit, 0 … 9, and its direction, one of `DIRECTIONS`.


def caption(digit: int, direction: str, behind: Mover | None = None) -> str:
  """Describe `digit` (0 … 9) moving in `direction` (one of `DIRECTIONS`) in the canonical words.

  Args:
    digit: the only digit, or the one in front.
    direction: where it moves.
    behind: digit and direction of another one that it passes in front of.
  """
  movers = _movers(digit, direction, behind)
  return _fill(_CANONICAL[len(movers)], movers)


def paraphrase(digit: int, direction: str, variant: int, behind: Mover | None = None) -> str:
  """Describe the same in free words; `variant` counts modulo `NUM_PARAPHRASES`."""
  movers = _movers(digit, direction, behind)
  return _fill(_PARAPHRASES[len(movers)][variant % NUM_PARAPHRASES], movers)


def vocabulary(free: bool, num_digits: int = 1) -> tuple[str, ...]:
  """Return the words of all captions of one digit or of two, of those in free words, too, if `free`."""
  templates = [_CANONICAL[num_digits], *(_PARAPHRASES[num_digits] if free else ())]
  texts = [
      _fill(template, [(digit, direction)] * num_digits)
      for template in templates for digit in range(10) for direction in DIRECTIONS]
  return tuple(sorted({word for text in texts for word in re.findall(r"\w+", text)}))


def _movers(digit: int, direction: str, behind: Mover | None) -> Sequence[Mover]:
  return [(digit, direction)] if behind is None else [(digit, direction), behind]


def _fill(template: str, movers: Sequence[Mover]) -> str:
  return template.format(*(_words(*mover) for mover in movers))


def _words(digit: int, direction: str) -> dict[str, str]:
  if digit not in range(10):
    raise UserError(f"digit: expected 0 to 9, got {digit!r}")
  if direction not in DIRECTIONS:
    raise UserError(f"direction: expected one of {', '.join(DIRECTIONS)}, got {direction!r}")
  return {
      "word": DIGIT_WORDS[digit], "digit": str(digit), "article": "an" if digit == 8 else "a",
      "direction": direction, "toward": _TOWARD[direction]}
