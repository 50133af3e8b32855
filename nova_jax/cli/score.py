"""Compute numbers from finished folders.

Example:
  python -m launch.score --benchmark motion --generated out

vbench and geneval add up what the official scorers wrote (--results FILE or FOLDER). frechet compares two folders of
pictures or videos: Fréchet distance, Inception Score, precision, recall and diversity, in the features of a network
whose weights you bring (inception for FID, i3d for FVD): --real DIR --generated DIR --weights FILE
[--features inception|i3d|MODULE:FUNCTION]. motion tells how much the videos of --generated move, in pixels a frame.
prediction compares predicted frames with real ones: PSNR, SSIM, LPIPS (--lpips FILE), FVD (--weights FILE), the best of
several samples, and each frame's scores (--csv, --plot).
"""

import itertools
import json
from pathlib import Path

import numpy as np
from absl import flags

from nova_jax.cli.common_flags import define_json
from nova_jax.cli.entry import Command
from nova_jax.evals import prediction
from nova_jax.evals.benchmarks import totals
from nova_jax.evals.features.extract import (
  NETWORKS,
  PICTURES,
  VIDEOS,
  FeatureFunction,
  compute_features,
  find,
  open_features,
  passed_over,
)
from nova_jax.evals.features.frechet import frechet_distance
from nova_jax.evals.features.inception import Inception
from nova_jax.evals.features.inception_score import inception_score
from nova_jax.evals.features.lpips import LPIPS
from nova_jax.evals.features.neighbours import diversity, precision_recall
from nova_jax.pipeline.prompts import naming
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import write_atomically
from nova_jax.utils.notes import tell

# What each score is made of; --features has a default, and --json is for all.
NEEDED = {
    "vbench": ("results",), "geneval": ("results",), "frechet": ("real", "generated", "weights"),
    "motion": ("generated",), "prediction": ("real", "generated", "context_frames")}
OPTIONAL = {"prediction": ("weights", "lpips", "csv", "plot")}


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_enum(
      "benchmark", None, list(NEEDED),
      "Score to compute: vbench and geneval need --results, frechet needs --real, --generated and --weights, "
      "prediction needs --real, --generated and --context_frames, and motion needs --generated.", flag_values=values)
  flags.DEFINE_multi_string(
      "results", None, "File or folder that the official scorer wrote; repeat the flag for several files.",
      flag_values=values)
  flags.DEFINE_string("real", None, "Folder of real pictures or videos, to compare with.", flag_values=values)
  flags.DEFINE_string("generated", None, "Folder of generated pictures or videos.", flag_values=values)
  flags.DEFINE_string(
      "features", "inception",
      f"Network that computes features: {', '.join(NETWORKS)}, or MODULE:FUNCTION, a function that makes one. MODULE "
      "is imported.", flag_values=values)
  flags.DEFINE_string(
      "weights", None,
      "File with the weights of --features, such as those of InceptionV3 from pytorch-fid or of I3D from pytorch-i3d.",
      flag_values=values)
  flags.DEFINE_integer(
      "context_frames", None, "Number of first frames of each clip that were given, and are not scored.",
      lower_bound=1, flag_values=values)
  flags.DEFINE_multi_string(
      "lpips", None, "File with weights of LPIPS; repeat the flag for those of AlexNet or VGG-16 and those of the "
      "channels.", flag_values=values)
  flags.DEFINE_string("csv", None, "CSV file that each frame's scores are written to.", flag_values=values)
  flags.DEFINE_string("plot", None, "PNG file that each frame's scores are plotted in.", flag_values=values)
  define_json(values)


def main(args: flags.FlagValues) -> None:
  """Print scores, and write them."""
  for name in sorted(set(itertools.chain(*NEEDED.values(), *OPTIONAL.values()))):
    needed, given = name in NEEDED[args.benchmark], bool(getattr(args, name))
    if needed != given and name not in OPTIONAL.get(args.benchmark, ()):
      raise UserError(f"--{name} {'is needed for' if needed else 'is given, but not used by'} {args.benchmark}")
  scores = SCORES[args.benchmark](args)
  for name, value in scores.items():
    print(f"{name:<24}{value:>12{'' if isinstance(value, int) else '.4f'}}")
  if args.json:
    write_atomically(args.json, json.dumps(scores, indent=2) + "\n")


def _vbench(args) -> dict[str, float]:
  with naming("--results"):
    scores = totals.read_vbench([as_path(path) for path in args.results])
    return scores | totals.vbench_totals(scores)


def _geneval(args) -> dict[str, float]:
  if len(args.results) > 1:
    raise UserError(f"--results: geneval's are one file, got {len(args.results)}")
  with naming("--results"):
    return totals.read_geneval(as_path(args.results[0]))


def _frechet(args) -> dict[str, float]:
  folders = _find(args, PICTURES + VIDEOS)
  function = _features(args.features, args.weights)
  real, made = (compute_features(paths, function, name) for name, paths in folders.items())
  if real.clip_frames != made.clip_frames:
    raise UserError(
        f"clips of --real have {real.clip_frames or 1} frames, those of --generated {made.clip_frames or 1}; expected "
        "as many in both")
  precision, recall = precision_recall(real.features, made.features)
  return {
      "frechet": frechet_distance(real.statistics, made.statistics), **_inception(function, made.features),
      "precision": precision, "recall": recall,
      "diversity": diversity(made.features), "diversity_real": diversity(real.features),
      "features": len(made.features), "features_real": len(real.features)}


def _find(args, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
  """Return the files of both folders, and say what of them is passed over."""
  folders = {}
  for name in ("real", "generated"):
    with naming(f"--{name}"):
      folders[name] = find(as_path(getattr(args, name)), suffixes)
    _say(passed_over(as_path(getattr(args, name)), suffixes))
  return folders


def _features(name: str, weights: str) -> FeatureFunction:
  with naming("" if ":" in name else "--weights"):  # A function of the user's says what it likes.
    return open_features(name, weights)


def _inception(function: FeatureFunction, features: np.ndarray) -> dict[str, float]:
  """Return the Inception Score, where there are logits. Shuffled features: folders may be sorted by class."""
  logits = function.logits(features) if isinstance(function, Inception) else None
  if logits is None:
    return {}
  mean, deviation = inception_score(np.random.default_rng(0).permutation(logits))
  return {"inception_score": mean, "inception_deviation": deviation}


def _prediction(args) -> dict[str, float]:
  scores = dict(prediction.SCORES)
  if args.lpips:
    with naming("--lpips"):
      scores["lpips"] = LPIPS.load_parts(args.lpips)
  function = _features("i3d", args.weights) if args.weights else None
  pairs = prediction.pair_up(**_find(args, VIDEOS))
  found = prediction.score_prediction(pairs, args.context_frames, scores)
  if args.csv:
    prediction.write_drift(as_path(args.csv), found)
  if args.plot:
    prediction.plot_drift(as_path(args.plot), found)
  return found.totals() | ({"fvd": prediction.fvd(pairs, function)} if function is not None else {})


def _motion(args) -> dict[str, float]:
  from nova_jax.evals.motion import motion_statistics  # Not every installation has what it needs.

  _say(passed_over(as_path(args.generated), VIDEOS))
  with naming("--generated"):
    return motion_statistics(as_path(args.generated))


def _say(note: str) -> None:
  if note:
    tell(note)


SCORES = {"vbench": _vbench, "geneval": _geneval, "frechet": _frechet, "motion": _motion, "prediction": _prediction}


COMMAND = Command(main, define_flags, required=("benchmark",), own_chips=True)
