"""Captions of a moving digit, in plain and in free words.

`caption` is the one wording that prompts and scores use: "the digit seven moves left". `paraphrase` says the same
in other words, so that a model meets numerals, other verbs and other orders of words.
Invariant: a caption is a pure function of (digit, direction, variant) and names its digit and its direction.
"""

import re

from nova_jax.utils.errors import UserError

DIRECTIONS = ("left", "right", "up", "down")
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_CANONICAL = "the digit {word} moves {direction}"
_PARAPHRASES = (
    "{article} {digit} drifting {toward}",
    "{word} slides {direction}ward",
    "the number {word} goes {direction}",
    "a handwritten {digit} travels {toward}",
    "{direction}ward glides the digit {word}",
    "the numeral {digit} is moving {direction}",
    "watch the {word} head {toward}",
    "moving {direction}: the number {digit}",
)
_TOWARD = {"left": "to the left", "right": "to the right", "up": "to the top", "down": "to the bottom"}
NUM_PARAPHRASES = len(_PARAPHRASES)


def caption(digit: int, direction: str) -> str:
  """Describe `digit` (0 … 9) moving in `direction` (one of `DIRECTIONS`) in the canonical words."""
  return _fill(_CANONICAL, digit, direction)


def paraphrase(digit: int, direction: str, variant: int) -> str:
  """Describe the same in free words; `variant` counts modulo `NUM_PARAPHRASES`."""
  return _fill(_PARAPHRASES[variant % NUM_PARAPHRASES], digit, direction)


def vocabulary(free: bool) -> tuple[str, ...]:
  """Return the words of all captions, of those in free words, too, if `free`."""
  texts = [
      text for digit in range(10) for direction in DIRECTIONS
      for text in (caption(digit, direction), *(
          paraphrase(digit, direction, variant) for variant in range(NUM_PARAPHRASES if free else 0)))]
  return tuple(sorted({word for text in texts for word in re.findall(r"\w+", text)}))


def _fill(template: str, digit: int, direction: str) -> str:
  if digit not in range(10):
    raise UserError(f"digit: expected 0 to 9, got {digit!r}")
  if direction not in DIRECTIONS:
    raise UserError(f"direction: expected one of {', '.join(DIRECTIONS)}, got {direction!r}")
  return template.format(
      word=DIGIT_WORDS[digit], digit=digit, article="an" if digit == 8 else "a",
      direction=direction, toward=_TOWARD[direction])
