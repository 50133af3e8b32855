"""Computes the digits score of a model, or of any function from prompts to clips, as numbers and pictures."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from nova_jax import media
from nova_jax.data import captions as captions_lib
from nova_jax.evals import digits as digits_lib
from nova_jax.pipeline import Pipeline
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import write_atomically

SHEET_CLIPS = 20
GRID_CLIPS, GRID_COLUMNS = 40, 10  # A column per digit, a row per direction.
COMBINATIONS = 40  # Number of digits times number of directions.

Generator = Callable[[Sequence[str], Sequence[int]], UInt8[np.ndarray, "B T height width 1"]]  # From prompts and seeds.


class Made(NamedTuple):
  """Clips that were made to be scored, and what was asked for."""

  clips: UInt8[np.ndarray, "n T height width 1"]
  real: UInt8[np.ndarray, "n T height width"]  # Held-out clips of the same digits and directions.
  digits: Sequence[int]
  directions: Sequence[str]
  prompts: Sequence[str]
  seconds_per_clip: float  # Time in the fastest batch.

  def scores(self, classifier: digits_lib.DigitClassifier) -> dict[str, digits_lib.Proportion]:
    """Return the scores of the clips."""
    return digits_lib.score(self.clips[..., 0], self.digits, self.directions, classifier)


class DigitsScore(NamedTuple):
  """Scores of a model."""

  scores: Mapping[str, digits_lib.Proportion]
  real: Mapping[str, digits_lib.Proportion]  # Scores of real held-out clips.
  seconds_per_clip: float  # Time in the fastest batch.


def score_digits(
    pipe: Pipeline, output: Path, *, num_prompts: int, captions: str = "plain", batch_size: int = 100, seed: int = 0,
    show: Callable[[int], None] = lambda done: None, **sampling: Any,
) -> DigitsScore:
  """Score a pipeline as `score_generator` does.

  Args:
    pipe: pipeline of the model.
    output: folder to write to.
    num_prompts, captions, batch_size, seed, show: arguments of `score_generator`.
    **sampling: further arguments of `Pipeline.__call__`.

  Raises:
    UserError: the model does not generate moving digits from captions.
  """
  if pipe.autoencoder is None or pipe.autoencoder.latent_dim != 1 or pipe.text_encoder is None:
    raise UserError("--checkpoint: the digits score needs a model of captioned moving digits")
  return score_generator(
      lambda prompts, seeds: pipe(prompts, seed=seeds, **sampling), output, canvas=pipe.cfg.latent_size[0],
      num_frames=pipe.card.num_frames, num_prompts=num_prompts, captions=captions, batch_size=batch_size, seed=seed,
      show=show)


def score_generator(
    generate: Generator, output: Path, *, canvas: int, num_frames: int, num_prompts: int, captions: str = "plain",
    batch_size: int = 100, seed: int = 0, show: Callable[[int], None] = lambda done: None,
) -> DigitsScore:
  """Generate clips of digits and directions, score them, and write `scores.json`, `sheet.png` and `grid.gif`.

  Args:
    generate: function (prompts, seeds) → clips.
    output: folder to write to.
    canvas, num_frames, num_prompts, captions, batch_size, seed, show: arguments of `make_clips`.
  """
  made = make_clips(
      generate, canvas=canvas, num_frames=num_frames, num_prompts=num_prompts, captions=captions,
      batch_size=batch_size, seed=seed, show=show)
  classifier = digits_lib.DigitClassifier()
  scores = made.scores(classifier)
  real_scores = digits_lib.score(made.real, made.digits, made.directions, classifier)
  media.write_sheet(output / "sheet.png", list(made.clips[:SHEET_CLIPS]), made.prompts[:SHEET_CLIPS])
  media.write_gif(output / "grid.gif", media.tile(list(made.clips[:GRID_CLIPS]), GRID_COLUMNS), fps=4, short_side=400)
  write_atomically(output / "scores.json", json.dumps({
      "prompts": num_prompts, "captions": captions,
      "generated": {name: share.value for name, share in scores.items()},
      "real": {name: share.value for name, share in real_scores.items()}}, indent=2) + "\n")
  return DigitsScore(scores, real_scores, made.seconds_per_clip)


def make_clips(
    generate: Generator, *, canvas: int, num_frames: int, num_prompts: int, captions: str = "plain",
    batch_size: int = 100, seed: int = 0, show: Callable[[int], None] = lambda done: None,
) -> Made:
  """Generate clips of digits and directions.

  Args:
    generate: function (prompts, seeds) → clips.
    canvas: side of a frame in pixels.
    num_frames: number of frames per clip.
    num_prompts: number of clips; multiples of 40 contain every digit and direction equally often.
    captions: "plain" for one wording, "free" for all paraphrases in turn.
    batch_size: number of clips generated at once.
    seed: seed of all randomness.
    show: function that is called with the number of finished clips.
  """
  if num_prompts > limits.CLIPS:
    raise UserError(f"num_prompts: expected at most {limits.CLIPS:,} (limits.CLIPS), got {num_prompts:,}")
  if not 0 <= seed <= (2**32 - num_prompts) // num_prompts:  # Each clip has its own seed, after those of smaller seeds.
    raise UserError(
        f"seed: expected 0 to {(2**32 - num_prompts) // num_prompts} for {num_prompts} prompts, got {seed}")
  real, digits, directions = digits_lib.real_clips(num_prompts, canvas, num_frames)
  prompts = [
      captions_lib.caption(digit, direction) if captions == "plain" else
      captions_lib.paraphrase(digit, direction, i // COMBINATIONS)
      for i, (digit, direction) in enumerate(zip(digits, directions, strict=True))]
  clips, paces = [], []
  for start in range(0, num_prompts, batch_size):
    show(start)
    batch = prompts[start : start + batch_size]
    started = time.perf_counter()
    clips.append(generate(batch, [seed * num_prompts + start + i for i in range(len(batch))]))
    paces.append((time.perf_counter() - started) / len(batch))
  return Made(np.concatenate(clips), real, digits, directions, prompts, min(paces))
