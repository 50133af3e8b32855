"""What `launch.evaluate` does for a benchmark: samples, and checks, in words for a person."""

import dataclasses
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nova_jax.checkpoints.model_folder import open_folder
from nova_jax.evals.benchmarks.check import check, is_ours, layout_from_manifest
from nova_jax.evals.benchmarks.classes import (
  ARCHIVE,
  CLASS_TO_IMAGE,
  NUM_PICTURES,
  archive_problem,
  class_layout,
  write_archive,
)
from nova_jax.evals.benchmarks.frame_prediction import PROTOCOLS, Protocol, prediction_layout
from nova_jax.evals.benchmarks.layout import NAMES, VBENCH_I2V, Layout, read_layout
from nova_jax.evals.benchmarks.sampling import CHECKSUMS, MANIFEST, generate
from nova_jax.evals.benchmarks.scorers import how_to_score
from nova_jax.evals.benchmarks.settings import Settings
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.loading import load_pipeline, say_first_compiles
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_folder_writable
from nova_jax.utils.notes import tell
from nova_jax.utils.terminal import say


def sample(
    args: Any, sampling: Mapping[str, Any], step: int | str | None = None, lora: Mapping[str, float] | None = None,
    quantize: Mapping[str, str] | None = None,
) -> None:
  """Make one shard of a benchmark's samples.

  Args:
    args: has `benchmark`, `prompts`, `rewritten`, `output`, `shard` and the other fields of `Settings`.
    sampling: settings of `Request` that are given, some of `SAMPLED`.
    step: step of the checkpoint of a training run, or "best"; None takes the newest.
    lora: weights of LoRAs by folder; None for no LoRA.
    quantize: numbers in 8 bits that matrices are stored in, by part; None for none.
  """
  shard = re.fullmatch(r"(\d+)/(\d+)", args.shard)
  if not shard:
    raise UserError(f"--shard: expected I/N, such as 0/4, got {args.shard!r}")
  protocol = _protocol(args)
  if protocol is not None:
    sampling = {**sampling, "num_frames": protocol.num_frames}
  layout = _layout(args, step, protocol)
  for note in layout.notes:
    tell(note)
  given: dict[str, Any] = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(Settings)}
  given |= {"step": step, "lora": lora, "quantize": quantize}
  given = {name: value for name, value in given.items() if value is not None}
  settings = Settings(**given, sampling=sampling)
  output = check_folder_writable("output", args.output)
  if generate(layout, settings, output, (int(shard[1]), int(shard[2])), _load):
    if args.npz:
      write_archive(output / ARCHIVE, output / args.benchmark, layout.items)
    say(f"{output / args.benchmark} is complete; verify it with --check {shlex.quote(str(output))}")
  else:
    say(f"shard {args.shard} is done; other shards are not")


def _protocol(args: Any) -> Protocol | None:
  """Return how frames are predicted: as the benchmark says, where flags don't; None for other benchmarks."""
  known = PROTOCOLS.get(args.benchmark)
  if known is None:
    return None
  given = {name: getattr(args, name) for name in Protocol._fields}
  return known._replace(**{name: value for name, value in given.items() if value is not None})


def _layout(args: Any, step: int | str | None, protocol: Protocol | None) -> Layout:
  """Return the layout that flags ask for."""
  own = {CLASS_TO_IMAGE: ("npz", "num_pictures"), VBENCH_I2V: ("images",)} | dict.fromkeys(
      PROTOCOLS, ("context_frames", "num_samples", "num_clips"))
  for name in sorted({name for names in own.values() for name in names} - set(own.get(args.benchmark, ()))):
    if getattr(args, name):
      raise UserError(f"--{name} is given, but not used by {args.benchmark}")
  if args.benchmark == CLASS_TO_IMAGE:
    for name in ("prompts", "rewritten"):
      if getattr(args, name):
        raise UserError(f"--{name} is given, but not used by {CLASS_TO_IMAGE}: classes are numbers")
    num_classes = open_folder(args.checkpoint, args.weights, step).card.transformer.num_classes
    if num_classes is None:
      raise UserError(f"--checkpoint: {args.checkpoint} takes text; {CLASS_TO_IMAGE} needs classes")
    return class_layout(args.num_pictures or NUM_PICTURES, num_classes)
  if protocol is not None:
    if not args.prompts or args.rewritten:
      raise UserError("--prompts: give a folder of real clips, or a table with path, and caption or label (and no "
                      "--rewritten)")
    return prediction_layout(args.benchmark, as_path(args.prompts), protocol)
  if not args.prompts:
    raise UserError(f"--prompts: give the prompt file that the authors of {args.benchmark} publish")
  if args.benchmark == VBENCH_I2V and not args.images:
    raise UserError(
        "--images: give the folder of first frames in the model's aspect ratio, such as vbench2_beta_i2v/data/crop/8-5")
  rewritten, images = (as_path(path) if path else None for path in (args.rewritten, args.images))
  return read_layout(args.benchmark, as_path(args.prompts), rewritten, images)


def _load(checkpoint: str, **options: Any) -> Pipeline:
  pipe = load_pipeline(checkpoint, **options)
  say_first_compiles()
  return pipe


def check_folder(folder: Path, benchmark: str, prompts: str | None) -> bool:
  """Check a run's output, or a scored folder that anything made; print what is wrong, and how to score it.

  Returns:
    Whether all is well.
  """
  if not folder.is_dir():
    raise UserError(f"--check: there is no folder {folder}; expected one that samples were written to")
  if (folder / MANIFEST).is_file() and (not prompts or is_ours(folder)):
    layout, sums = layout_from_manifest(folder), folder / CHECKSUMS
    scored = folder / layout.benchmark
  else:
    if benchmark not in NAMES or not prompts:
      raise UserError(
          f"--check: {folder} has no {MANIFEST}; of a folder that something else made, give --benchmark and --prompts")
    layout, scored, sums = read_layout(benchmark, as_path(prompts)), folder, None
  report = check(layout, scored, sums)
  say("\n".join(report.lines()))
  archive = folder / ARCHIVE
  if report.is_good and layout.benchmark == CLASS_TO_IMAGE and archive.is_file():
    if problem := archive_problem(archive, scored, layout.items):
      say(f"{archive} {problem}: remove it, and let --npz write it again")
      return False
    say(f"{archive} has the same pictures and their classes")
  say("\n".join(["score it:", *how_to_score(layout, scored, report.shape)]) if report.is_good else "not complete")
  return report.is_good
