"""What to change so that a program fits, and what is the most that fits: found by compiling, not by guessing.

Candidates come in order of what they cost: recompute more; smaller micro-batches, whose every one gathers the weights
again; a mesh that splits activations too; a smaller batch, which is another run. Each keeps the changes before it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from nova_jax.aot.programs import make_jobs
from nova_jax.aot.report import Report, compile_job
from nova_jax.aot.topology import Topology
from nova_jax.config import Experiment, MeshConfig

REMAT_BY_COST = ("none", "dots", "block", "offload")
_MOST_DOUBLINGS = 6


def compile_all(
    experiment: Experiment, topology: Topology, what: str, say: Callable[[str], None], stop: bool = False,
) -> list[Report]:
  """Compile all programs of `what`; with `stop`, none after the first that doesn't fit."""
  reports = []
  for job in make_jobs(experiment, topology, what):
    reports.append(compile_job(job, topology, say))
    if stop and not reports[-1]["fits"]:
      break
  return reports


def cheapest_change(
    experiment: Experiment, topology: Topology, what: str, say: Callable[[str], None],
) -> tuple[str, list[Report]] | None:
  """Return the flags of the cheapest change that fits, and its reports; None if none of those known does."""
  for flags, candidate in candidates(experiment, what):
    say(f"trying {flags}")
    try:
      reports = compile_all(candidate, topology, what, say, stop=True)
    except ValueError as error:
      say(f"  not possible: {error}")
      continue
    if all(report["fits"] for report in reports):
      return flags, reports
  return None


def candidates(experiment: Experiment, what: str) -> Iterator[tuple[str, Experiment]]:
  """Yield changes with more and more cost, as flags and as experiments."""
  flags: dict[str, str] = {}

  def result():
    return " ".join(f"--{name}={value}" for name, value in flags.items()), experiment

  if what == "train":
    for remat in REMAT_BY_COST[REMAT_BY_COST.index(experiment.model.remat) + 1:]:
      experiment = with_remat(experiment, remat)
      flags["config.model.remat"] = remat
      yield result()
    most = min(stage.batch_size for stage in experiment.train.stages)
    for accumulation in (2, 4, 8):
      if accumulation * experiment.train.accumulation <= most:
        changed = dataclasses.replace(experiment.train, accumulation=accumulation * experiment.train.accumulation)
        flags["config.train.accumulation"] = str(changed.accumulation)
        yield result()[0], dataclasses.replace(experiment, train=changed)
    flags.pop("config.train.accumulation", None)
  for tensor in (2, 4, 8):
    mesh = experiment.mesh
    if tensor <= mesh.tensor or mesh.fsdp != -1 and mesh.fsdp * mesh.tensor % tensor:
      continue
    fsdp = mesh.fsdp if mesh.fsdp == -1 else mesh.fsdp * mesh.tensor // tensor
    changed = MeshConfig(mesh.data, fsdp, tensor, mesh.context)
    flags["mesh"] = f"data={mesh.data},fsdp={fsdp},tensor={tensor},context={mesh.context}"
    yield result()[0], dataclasses.replace(experiment, mesh=changed)
  flags.pop("mesh", None)
  if what == "train":
    for part in (2, 4, 8):
      changed = with_batch(experiment, 1 / part)
      for i, stage in enumerate(changed.train.stages):
        flags[f"config.train.stages[{i}].batch_size"] = str(stage.batch_size)
      yield result()[0], changed


def search(experiment: Experiment, topology: Topology, say: Callable[[str], None]) -> dict[str, Any]:
  """Find the lightest remat for the batch as it is, and the largest batch with the heaviest remat.

  Returns:
    `tried`: what was compiled, in order: remat, batch of each stage, whether it fits, and its clips a second at the
    roofline. `lightest_remat` and `largest_batch`: the rows that won, or None.
  """
  tried: list[dict] = []

  def fits(candidate: Experiment) -> dict | None:
    try:
      reports = compile_all(candidate, topology, "train", say, stop=True)
    except ValueError as error:  # A batch that doesn't spread over the mesh.
      say(f"  not possible: {error}")
      return None
    row = {"remat": candidate.model.remat, "batch": [stage.batch_size for stage in candidate.train.stages],
           "fits": all(report["fits"] for report in reports),
           "peak": max(report["memory"]["peak"] for report in reports)}
    if all("roofline" in report for report in reports):
      row["clips_per_sec"] = [report["samples"] / report["roofline"]["seconds"] for report in reports]
    tried.append(row)
    return row if row["fits"] else None

  lightest = next(filter(None, (fits(with_remat(experiment, remat)) for remat in REMAT_BY_COST)), None)
  largest, heavy = None, with_remat(experiment, "block")
  for doublings in range(_MOST_DOUBLINGS):
    row = fits(with_batch(heavy, 2**doublings))
    if row is None:
      break
    largest = row
  if largest is None:
    halves = (fits(with_batch(heavy, 2**-halvings)) for halvings in range(1, _MOST_DOUBLINGS))
    largest = next(filter(None, halves), None)
  return {"tried": tried, "lightest_remat": lightest, "largest_batch": largest}


def with_remat(experiment: Experiment, remat: str) -> Experiment:
  """Return the experiment with another rematerialisation."""
  return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, remat=remat))


def with_batch(experiment: Experiment, factor: float) -> Experiment:
  """Return the experiment with its stages' batches multiplied."""
  stages = tuple(
      dataclasses.replace(stage, batch_size=max(int(stage.batch_size * factor), 1))
      for stage in experiment.train.stages)
  return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, stages=stages))
