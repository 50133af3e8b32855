"""Searches, by compiling, for the change that makes a program fit, and for the largest program that fits.

Candidates are in order of their cost: parameters sharded over more devices; two micro-batches, each of which gathers
the weights again; more recomputation; more micro-batches; a mesh that also splits activations; and a smaller batch,
which changes the run. From recomputation on, each candidate includes the earlier ones.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from nova_jax.config import Experiment
from nova_jax.tools.aot.compiler import DEFAULT, Options
from nova_jax.tools.aot.programs import lower_job, make_jobs
from nova_jax.tools.aot.report import Report, compile_job
from nova_jax.tools.aot.topology import Topology

REMAT_BY_COST = ("none", "dots", "mlp", "block", "offload")
_MOST_DOUBLINGS = 6


def compile_all(
    experiment: Experiment, topology: Topology, what: str, say: Callable[[str], None], options: Options = DEFAULT,
    stop: bool = False, preset: str = "exact",
) -> list[Report]:
  """Compile all programs of `what`, clips being generated with a preset; with `stop`, end at the first that does not
  fit.
  """
  reports = []
  for number, job in enumerate(make_jobs(experiment, topology, what, preset)):
    lower = functools.partial(lower_job, experiment, topology, what, number, preset)
    reports.append(compile_job(job, topology, say, options, lower))
    if stop and not reports[-1]["fits"]:
      break
  return reports


def cheapest_change(
    experiment: Experiment, topology: Topology, what: str, say: Callable[[str], None], options: Options = DEFAULT,
    preset: str = "exact",
) -> tuple[str, list[Report]] | None:
  """Return the flags of the cheapest change that fits, and its reports; None if no known change fits."""
  for flags, candidate in candidates(experiment, what, topology.num_slices):
    say(f"trying {flags}")
    try:
      reports = compile_all(candidate, topology, what, say, options, stop=True, preset=preset)
    except ValueError as error:
      say(f"  not possible: {error}")
      continue
    if all(report["fits"] for report in reports):
      return flags, reports
  return None


def candidates(experiment: Experiment, what: str, num_slices: int = 1) -> Iterator[tuple[str, Experiment]]:
  """Yield changes in order of cost, as flags and experiments; decoding, which runs on one device, has none."""
  flags: dict[str, str] = {}

  def result():
    return " ".join(f"--{name}={value}" for name, value in flags.items()), experiment

  if what == "decode":
    return
  mesh = experiment.mesh
  if mesh.data == -1 or mesh.data > num_slices:
    flags |= {"config.mesh.data": str(num_slices), "config.mesh.fsdp": "-1"}
    yield result()[0], dataclasses.replace(experiment, mesh=dataclasses.replace(mesh, data=num_slices, fsdp=-1))
    flags.clear()
  if what == "train":
    yield _accumulate(experiment, flags, 2)
    flags.clear()
    for remat in REMAT_BY_COST[REMAT_BY_COST.index(experiment.model.remat) + 1:]:
      experiment = with_remat(experiment, remat)
      flags["config.model.remat"] = remat
      yield result()
    for factor in (2, 4, 8) if flags else (4, 8):
      yield _accumulate(experiment, flags, factor)
    flags.pop("config.train.accumulation")
  for tensor in (2, 4, 8):
    if tensor <= mesh.tensor or mesh.fsdp != -1 and mesh.fsdp * mesh.tensor % tensor:
      continue
    fsdp = mesh.fsdp if mesh.fsdp == -1 else mesh.fsdp * mesh.tensor // tensor
    flags |= {"config.mesh.fsdp": str(fsdp), "config.mesh.tensor": str(tensor)}
    yield result()[0], dataclasses.replace(experiment, mesh=dataclasses.replace(mesh, fsdp=fsdp, tensor=tensor))
  flags = {name: value for name, value in flags.items() if "mesh" not in name}
  if what == "train":
    for part in (2, 4, 8):
      changed = with_batch(experiment, 1 / part)
      for i, stage in enumerate(changed.train.stages):
        flags[f"config.train.stages[{i}].batch_size"] = str(stage.batch_size)
      yield result()[0], changed


def _accumulate(experiment: Experiment, flags: dict[str, str], factor: int) -> tuple[str, Experiment]:
  """Return the flags and the experiment with more micro-batches; using it raises an error if they don't divide."""
  changed = dataclasses.replace(experiment.train, accumulation=factor * experiment.train.accumulation)
  flags["config.train.accumulation"] = str(changed.accumulation)
  text = " ".join(f"--{name}={value}" for name, value in flags.items())
  return text, dataclasses.replace(experiment, train=changed)


def search(
    experiment: Experiment, topology: Topology, say: Callable[[str], None], options: Options = DEFAULT,
) -> dict[str, Any]:
  """Find the lightest remat for the given batch, and the largest batch, up to 32 times as large, with remat "block".

  Returns:
    `tried`: compiled candidates in order, with remat, batch of each stage, whether it fits, and its clips per second at
    the roofline. `lightest_remat` and `largest_batch`: the best candidates, or None. `batch_limit`: whether the search
    ended at its largest batch rather than at one that does not fit.
  """
  tried: list[dict] = []

  def fits(candidate: Experiment) -> dict | None:
    try:
      reports = compile_all(candidate, topology, "train", say, options, stop=True)
    except ValueError as error:  # The batch can't be sharded over the mesh.
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
  limit = largest is not None and largest["batch"] == [
      stage.batch_size for stage in with_batch(experiment, 2**(_MOST_DOUBLINGS - 1)).train.stages]
  return {"tried": tried, "lightest_remat": lightest, "largest_batch": largest, "batch_limit": limit}


def with_remat(experiment: Experiment, remat: str) -> Experiment:
  """Return the experiment with another rematerialisation."""
  return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, remat=remat))


def with_batch(experiment: Experiment, factor: float) -> Experiment:
  """Return the experiment with the batches of its stages multiplied by `factor`."""
  stages = tuple(
      dataclasses.replace(stage, batch_size=max(int(stage.batch_size * factor), 1))
      for stage in experiment.train.stages)
  return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, stages=stages))
