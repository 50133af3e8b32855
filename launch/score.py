"""Numbers from finished folders: `python -m launch.score --benchmark vbench|geneval|frechet|motion …`.

vbench and geneval add up what the official scorers wrote (--results FILE or FOLDER). frechet compares two folders of
pictures or videos: Fréchet distance, precision, recall and diversity, in the features of a network whose weights you
bring (inception for FID, i3d for FVD): --real DIR --generated DIR --weights FILE
[--features inception|i3d|MODULE:FUNCTION]. motion tells how much the videos of --generated move, in pixels a frame.
"""

import json
from pathlib import Path

from absl import flags

from nova_jax import cli
from nova_jax.evals import aggregate
from nova_jax.evals.features import NETWORKS, features_of, open_features
from nova_jax.evals.frechet import frechet_distance
from nova_jax.evals.motion import motion_of
from nova_jax.evals.neighbours import diversity, precision_recall
from nova_jax.files import write_atomically

flags.DEFINE_enum("benchmark", None, ["vbench", "geneval", "frechet", "motion"], "What to score.")
flags.DEFINE_multi_string("results", None, "What the official scorer wrote; repeat the flag for several files.")
flags.DEFINE_string("real", None, "Folder of real pictures or videos.")
flags.DEFINE_string("generated", None, "Folder of generated ones.")
flags.DEFINE_string(
    "features", "inception", f"{', '.join(NETWORKS)}, or MODULE:FUNCTION that makes a feature function.")
flags.DEFINE_string("weights", None, "The network's weights, such as pytorch-fid's InceptionV3 or pytorch-i3d's I3D.")
flags.DEFINE_string("json", None, "File to write the numbers to.")


def main() -> None:
  """Print scores, and write them."""
  args = flags.FLAGS
  scores = {"frechet": _frechet, "motion": _motion}.get(args.benchmark, _official)(args)
  for name, value in scores.items():
    print(f"{name:<24}{value:>12.4f}")
  if args.json:
    write_atomically(args.json, json.dumps(scores, indent=2) + "\n")


def _official(args) -> dict[str, float]:
  if not args.results:
    raise ValueError(f"--results: give what the official scorer of {args.benchmark} wrote")
  paths = [Path(path) for path in args.results]
  if args.benchmark == "vbench":
    scores = aggregate.read_vbench(paths)
    return scores | aggregate.vbench_totals(scores)
  if len(paths) > 1:
    raise ValueError(f"--results: geneval's are one file, got {len(paths)}")
  return aggregate.read_geneval(paths[0])


def _motion(args) -> dict[str, float]:
  _need(args, "generated")
  return motion_of(Path(args.generated))


def _need(args, *names: str) -> None:
  for name in names:
    if not getattr(args, name):
      raise ValueError(f"--{name} is needed for {args.benchmark}")


def _frechet(args) -> dict[str, float]:
  _need(args, "real", "generated", "weights")
  function = open_features(args.features, args.weights)
  (real, real_statistics), (made, statistics) = (
      features_of(Path(folder), function) for folder in (args.real, args.generated))
  precision, recall = precision_recall(real, made)
  return {
      "frechet": frechet_distance(real_statistics, statistics), "precision": precision, "recall": recall,
      "diversity": diversity(made), "diversity_real": diversity(real),
      "features": len(made), "features_real": len(real)}


if __name__ == "__main__":
  cli.run(main, required=("benchmark",))
