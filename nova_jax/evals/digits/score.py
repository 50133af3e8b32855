"""Computes the scores of one or two digits of a model, or of any function from prompts to clips, with pictures."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from nova_jax import media
from nova_jax.data.digits import captions as captions_lib
from nova_jax.evals.digits import one_digit as digits_lib
from nova_jax.evals.digits import two_digits as two_digits_lib
from nova_jax.pipeline import Pipeline
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import write_atomically

SHEET_CLIPS = 20
GRID_CLIPS, GRID_COLUMNS = 40, 10  # A column per digit, of two the one in front; a row per direction or two.

Generator = Callable[[Sequence[str], Sequence[int]], UInt8[np.ndarray, "B T height width 1"]]  # From prompts and seeds.


class DigitsTask(NamedTuple):
  """What is asked of a model, and how it is scored.

  Attributes:
    real_clips: function (num_clips, canvas, num_frames) → held-out clips, then what they show, a sequence for each
      argument of `captions.caption`.
    score: function (clips, *what was asked for, classifier) → scores.
    names: names of the scores.
    same_wording: number of prompts after which free captions take another wording.
  """

  real_clips: Callable[[int, int, int], tuple]
  score: Callable[..., dict[str, digits_lib.Proportion]]
  names: tuple[str, ...]
  same_wording: int


# By the name of the benchmark.
TASKS: Mapping[str, DigitsTask] = {
    "digits": DigitsTask(digits_lib.real_clips, digits_lib.score, digits_lib.SCORES, 40),  # All digits and directions.
    "two_digits": DigitsTask(two_digits_lib.real_clips, two_digits_lib.score, two_digits_lib.SCORES, 10)}


class Made(NamedTuple):
  """Clips that were made to be scored, and what was asked for."""

  clips: UInt8[np.ndarray, "n T height width 1"]
  real: UInt8[np.ndarray, "n T height width"]  # Held-out clips of the same digits and directions.
  requests: Sequence[Sequence[Any]]
  prompts: Sequence[str]
  seconds_per_clip: float  # Time in the fastest batch.
  task: DigitsTask

  def scores(self, classifier: digits_lib.DigitClassifier) -> dict[str, digits_lib.Proportion]:
    """Return the scores of the clips."""
    return self.task.score(self.clips[..., 0], *self.requests, classifier)

  def real_scores(self, classifier: digits_lib.DigitClassifier) -> dict[str, digits_lib.Proportion]:
    """Return the scores of the real clips."""
    return self.task.score(self.real, *self.requests, classifier)


class DigitsScore(NamedTuple):
  """Scores of a model."""

  scores: Mapping[str, digits_lib.Proportion]
  real: Mapping[str, digits_lib.Proportion]  # Scores of real held-out clips.
  seconds_per_clip: float  # Time in the fastest batch.


def score_digits(
    pipe: Pipeline, output: Path, *, num_prompts: int, captions: str = "plain", batch_size: int = 100, seed: int = 0,
    task: str = "digits", show: Callable[[int], None] = lambda done: None, **sampling: Any,
) -> DigitsScore:
  """Score a pipeline as `score_generator` does.

  Args:
    pipe: pipeline of the model.
    output: folder to write to.
    num_prompts, captions, batch_size, seed, task, show: arguments of `score_generator`.
    **sampling: further arguments of `Pipeline.__call__`.

  Raises:
    UserError: the model does not generate moving digits from captions.
  """
  if pipe.autoencoder is None or pipe.autoencoder.latent_dim != 1 or pipe.text_encoder is None:
    raise UserError("--checkpoint: the digits score needs a model of captioned moving digits")
  side = two_digits_lib.SMALLEST_CANVAS
  if task == "two_digits" and (pipe.card.num_frames < two_digits_lib.NUM_FRAMES or pipe.cfg.latent_size[0] < side):
    raise UserError(
        f"--checkpoint: the score of two digits needs a model of clips of {two_digits_lib.NUM_FRAMES} frames of {side} "
        f"pixels a side, such as configs/two_digits.py trains; this one makes {pipe.card.num_frames} frames of "
        f"{pipe.cfg.latent_size[0]}")
  return score_generator(
      lambda prompts, seeds: pipe(prompts, seed=seeds, **sampling), output, canvas=pipe.cfg.latent_size[0],
      num_frames=pipe.card.num_frames, num_prompts=num_prompts, captions=captions, batch_size=batch_size, seed=seed,
      task=task, show=show)


def score_generator(
    generate: Generator, output: Path, *, canvas: int, num_frames: int, num_prompts: int, captions: str = "plain",
    batch_size: int = 100, seed: int = 0, task: str = "digits", show: Callable[[int], None] = lambda done: None,
) -> DigitsScore:
  """Generate clips of digits, score them, and write `scores.json`, `sheet.png` and `grid.gif`.

  Args:
    generate: function (prompts, seeds) → clips.
    output: folder to write to.
    canvas, num_frames, num_prompts, captions, batch_size, seed, task, show: arguments of `make_clips`.
  """
  made = make_clips(
      generate, canvas=canvas, num_frames=num_frames, num_prompts=num_prompts, captions=captions,
      batch_size=batch_size, seed=seed, task=task, show=show)
  classifier = digits_lib.DigitClassifier()
  scores, real_scores = made.scores(classifier), made.real_scores(classifier)
  media.write_sheet(output / "sheet.png", list(made.clips[:SHEET_CLIPS]), made.prompts[:SHEET_CLIPS])
  media.write_gif(output / "grid.gif", media.tile(list(made.clips[:GRID_CLIPS]), GRID_COLUMNS), fps=4, short_side=400)
  write_atomically(output / "scores.json", json.dumps({
      "prompts": num_prompts, "captions": captions,
      "generated": {name: share.value for name, share in scores.items()},
      "real": {name: share.value for name, share in real_scores.items()}}, indent=2) + "\n")
  return DigitsScore(scores, real_scores, made.seconds_per_clip)


def make_clips(
    generate: Generator, *, canvas: int, num_frames: int, num_prompts: int, captions: str = "plain",
    batch_size: int = 100, seed: int = 0, task: str = "digits", show: Callable[[int], None] = lambda done: None,
) -> Made:
  """Generate clips of digits.

  Args:
    generate: function (prompts, seeds) → clips.
    canvas: side of a frame in pixels.
    num_frames: number of frames per clip.
    num_prompts: number of clips; multiples of 40 contain every digit and direction equally often, and multiples of 120
      every digit in front and both directions of two digits.
    captions: "plain" for one wording, "free" for all paraphrases in turn.
    batch_size: number of clips generated at once.
    seed: seed of all randomness.
    task: name in `TASKS`.
    show: function that is called with the number of finished clips.
  """
  if num_prompts > limits.CLIPS:
    raise UserError(f"num_prompts: expected at most {limits.CLIPS:,} (limits.CLIPS), got {num_prompts:,}")
  if not 0 <= seed <= (2**32 - num_prompts) // num_prompts:  # Each clip has its own seed, after those of smaller seeds.
    raise UserError(
        f"seed: expected 0 to {(2**32 - num_prompts) // num_prompts} for {num_prompts} prompts, got {seed}")
  chosen = TASKS[task]
  real, *requests = chosen.real_clips(num_prompts, canvas, num_frames)
  prompts = [
      captions_lib.caption(digit, direction, *behind) if captions == "plain" else
      captions_lib.paraphrase(digit, direction, i // chosen.same_wording, *behind)
      for i, (digit, direction, *behind) in enumerate(zip(*requests, strict=True))]
  clips, paces = [], []
  for start in range(0, num_prompts, batch_size):
    show(start)
    batch = prompts[start : start + batch_size]
    started = time.perf_counter()
    clips.append(generate(batch, [seed * num_prompts + start + i for i in range(len(batch))]))
    paces.append((time.perf_counter() - started) / len(batch))
  return Made(np.concatenate(clips), real, requests, prompts, min(paces), chosen)
