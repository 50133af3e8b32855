"""Scores of predicted frames beside real ones: best of several samples, and drift by frame number.

  REAL/{name}.avi                       a real clip
  GENERATED/{name}_{sample:03}.avi      its first frames, which were given, then predicted ones, as often as you like

A clip's score is the mean over its predicted frames. Of the samples of a clip the best one counts, for each score by
itself. Drift is the mean over all clips and samples of one frame. With a feature function, FVD is the mean of as many
distances as a clip has samples: each is between all real clips and one sample of each.
"""

import csv
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nova_jax.evals.features.extract import FeatureFunction, compute_features, read_clip
from nova_jax.evals.features.frechet import frechet_distance
from nova_jax.evals.frame_scores import psnr, ssim
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import write_atomically
from nova_jax.utils.progress import Progress

Score = Callable[[np.ndarray, np.ndarray], Float[np.ndarray, "T"]]
SCORES: Mapping[str, Score] = {"psnr": psnr, "ssim": ssim}
_LOWER_IS_BETTER = ("lpips",)


class Prediction(NamedTuple):
  """Scores of all frames.

  Attributes:
    frames: scores [clips, samples, predicted frames] by name.
    given: number of given frames.
  """

  frames: Mapping[str, Float[np.ndarray, "clips samples T"]]
  given: int

  def totals(self) -> dict[str, float]:
    """Return each score of the best samples, and of all samples; numbers of clips, samples and predicted frames."""
    totals = {}
    for name, frames in self.frames.items():
      clips = frames.mean(2)
      best = clips.min(1) if name in _LOWER_IS_BETTER else clips.max(1)
      totals |= {name: float(best.mean()), f"{name}_of_all": float(clips.mean())}
    clips, samples, predicted = next(iter(self.frames.values())).shape
    return totals | {"clips": clips, "samples": samples, "predicted_frames": predicted}

  def drift(self) -> dict[str, Float[np.ndarray, "T"]]:
    """Return each score by predicted frame."""
    return {name: frames.mean((0, 1)) for name, frames in self.frames.items()}


def pair_up(real: Sequence[Path], generated: Sequence[Path]) -> dict[Path, list[Path]]:
  """Return the samples of each real clip: of NAME.mp4, say, NAME_0.mp4 and NAME_1.mp4.

  Raises:
    UserError: a file has no partner, or clips have different numbers of samples.
  """
  clips = {path.stem: path for path in real}
  pairs: dict[Path, list[Path]] = {path: [] for path in clips.values()}
  for path in generated:
    name = path.stem.rpartition("_")[0]
    if name not in clips:
      raise UserError(f"--generated: {path.name} should be NAME_NUMBER of a real clip NAME, which --real does not have")
    pairs[clips[name]].append(path)
  counts = {len(samples): path for path, samples in pairs.items()}
  if len(counts) > 1:
    few, most = min(counts), max(counts)
    raise UserError(f"--generated: {counts[few].name} has {few} samples, {counts[most].name} {most}; expected as many")
  return pairs


def score_prediction(pairs: Mapping[Path, list[Path]], given: int, scores: Mapping[str, Score]) -> Prediction:
  """Score all predicted frames.

  Args:
    pairs: samples of each real clip.
    given: number of first frames that were given, which are not scored.
    scores: functions from a real and a predicted clip to the scores of its frames.

  Raises:
    UserError: clips differ in length or size, or nothing is predicted.
  """
  found: dict[str, list] = {name: [] for name in scores}
  length = None
  with Progress("clip", len(pairs)) as progress:
    for done, (path, samples) in enumerate(pairs.items(), 1):
      real = read_clip(path)
      length = length or len(real)
      if len(real) != length or length <= given:
        raise UserError(f"{path} has {len(real)} frames; expected as many in all, and more than {given} given ones")
      made = [read_clip(sample) for sample in samples]
      for sample, clip in zip(samples, made, strict=True):
        if clip.shape != real.shape:
          raise UserError(f"{sample}: expected {_shape(real)} as in {path.name}, got {_shape(clip)}")
      for name, score in scores.items():
        found[name].append([score(real[given:], clip[given:]) for clip in made])
      progress.show(done, what="scoring")
  return Prediction({name: np.array(values) for name, values in found.items()}, given)


def fvd(pairs: Mapping[Path, list[Path]], function: FeatureFunction) -> float:
  """Return the mean Fréchet distance of all real clips from one sample of each, given frames included."""
  real = compute_features(list(pairs), function, "real").statistics
  count = len(next(iter(pairs.values())))
  distances = [
      frechet_distance(real, compute_features(
          [samples[number] for samples in pairs.values()], function, f"sample {number + 1}/{count}").statistics)
      for number in range(count)]
  return float(np.mean(distances))


def write_drift(path: Path, prediction: Prediction) -> None:
  """Write a CSV table with a row for each predicted frame; frames count from 0, the given ones included."""
  drift, text = prediction.drift(), io.StringIO()
  table = csv.writer(text, lineterminator="\n")
  table.writerow(["frame", *drift])
  for number, values in enumerate(zip(*drift.values(), strict=True), prediction.given):
    table.writerow([number, *(f"{value:.6f}" for value in values)])
  write_atomically(path, text.getvalue())


def plot_drift(path: Path, prediction: Prediction) -> None:
  """Plot each score by frame number, as a PNG."""
  from matplotlib.figure import Figure  # Not every installation has it.

  drift = prediction.drift()
  figure = Figure(figsize=(4 * len(drift), 3), layout="constrained")
  for axes, (name, values) in zip(np.atleast_1d(figure.subplots(1, len(drift))), drift.items(), strict=True):
    axes.plot(np.arange(len(values)) + prediction.given, values, marker=".")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="frame", title=name.upper() + (", lower is better" if name in _LOWER_IS_BETTER else ""))
  write_atomically(path, functools.partial(figure.savefig, format="png"))


def _shape(clip: np.ndarray) -> str:
  return f"{len(clip)} frames of {clip.shape[2]} x {clip.shape[1]}"
