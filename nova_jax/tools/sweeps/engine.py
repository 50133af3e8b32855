"""Runs the points of a sweep, each in its own process, and keeps their results.

  OUTPUT/points/{digest}/   trial.json, result.json when it is done, log.txt, error.txt when it failed, pictures
  RUNS/{digest}/            the workdir of a training, shared by points that differ in sampling alone, NOVA among
                            paradigms included; RUNS is OUTPUT/runs, or a folder that several sweeps share
  RESULTS/{digest}.json     a result alone, where a folder for these is given: small enough for a repository, so that
                            what was measured at different times adds up

Points that share a training form a group, which one shard runs in order. Groups are distributed to shards in turn.
Invariants: a point with a result is never run again. A point that failed or was interrupted is run again, and its
training continues. A point is identified by the files of its model, not their path. Stopping a sweep stops its points.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from nova_jax import pretrained
from nova_jax.checkpoints.model_folder import is_trained
from nova_jax.checkpoints.store import latest_step
from nova_jax.pipeline.presets import APPROXIMATE
from nova_jax.storage import as_path, is_remote
from nova_jax.tools.baselines.run import CONSTANTS
from nova_jax.tools.sweeps.plan import (
  LOADING,
  PARADIGM,
  SAMPLING,
  Point,
  Sweep,
  digest,
  experiment_for_point,
  label,
  trains,
)
from nova_jax.utils.digests import digest_folder
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import to_changes, to_dict
from nova_jax.utils.files import read_json, replacing, write_atomically
from nova_jax.utils.processor import processor_name

COMMAND = (sys.executable, "-m", "nova_jax.cli.child", "nova_jax.tools.sweeps.point")
MEASURED = ("num_prompts", "captions", "batch_size", "seed")  # Settings besides the point on which a result depends.


class Trial(NamedTuple):
  """A point and its folder: what one process measures."""

  point: Point
  folder: Path
  group: str  # Points of a group run one after another.
  content: Mapping[str, Any]
  kept: Path | None = None  # File of its result alone.

  @property
  def result(self) -> Mapping[str, float] | None:
    path = self.folder / "result.json"
    if path.is_file():
      return read_json(path)
    return read_json(self.kept)["result"] if self.kept is not None and self.kept.is_file() else None

  @property
  def error(self) -> str | None:
    path = self.folder / "error.txt"
    return path.read_text(encoding="utf-8").strip() if path.is_file() and self.result is None else None

  def keep(self) -> None:
    """Write the file of the result alone, if there is to be one."""
    if self.kept is not None and not self.kept.is_file():
      content = {"point": label(self.point), "processor": processor_name(), "result": self.result}
      write_atomically(self.kept, json.dumps(content, indent=1) + "\n")


def plan_trials(
    sweep: Sweep, checkpoint: str | None, output: Path, runs: Path | None = None, results: Path | None = None,
) -> list[Trial]:
  """Return a trial for each point, in order.

  Args:
    sweep: sweep to run.
    checkpoint: model folder for points that don't train a model.
    output: folder of the sweep.
    runs: folder of trainings; None for `output / "runs"`.
    results: folder of results alone, of which those that are there count; None for no such files.

  Raises:
    UserError: a point needs a checkpoint and none is given, or two points are equal.
  """
  trials, model_of = [], functools.cache(_identity)
  for point in sweep.points:
    measured = {name: getattr(sweep, name) for name in MEASURED}
    if sweep.task != Sweep.task:
      measured["task"] = sweep.task
    if (preset := point.get("preset")) in APPROXIMATE:
      measured["preset"] = dataclasses.asdict(APPROXIMATE[preset])  # Its numbers may change.
    loading = {name: point[name] for name in LOADING if name in point}
    experiment, identity, place = None, None, checkpoint
    paradigm = {PARADIGM: point[PARADIGM], "constants": CONSTANTS} if PARADIGM in point else {}
    measured |= paradigm
    if trains(point):
      trained = experiment_for_point(sweep, point)
      experiment, identity = json.loads(json.dumps(to_dict(trained))), to_changes(trained)
      place = str((runs or output / "runs") / digest(identity, {} if point.get(PARADIGM) == "nova" else paradigm))
    elif checkpoint is None:
      raise UserError(f"--checkpoint: the point {label(point)} trains no model of its own; give one")
    elif is_trained(as_path(checkpoint)):
      loading.setdefault("step", latest_step(as_path(checkpoint) / "checkpoints"))
    if identity is None:
      identity = model_of(place, loading.get("step"))
    name = digest(identity, loading, {n: point[n] for n in SAMPLING if n in point}, measured)
    folder = output / "points" / name
    content = measured | {
        "task": sweep.task,
        "label": label(point), "experiment": experiment, "checkpoint": place, "loading": loading,
        "sampling": {name: point[name] for name in SAMPLING if name in point}, "output": str(folder),
        "result": str(folder / "result.json")}
    trials.append(Trial(point, folder, place, content, kept=results / f"{name}.json" if results else None))
  twice = [label(trial.point) for i, trial in enumerate(trials) if trial.folder in {t.folder for t in trials[:i]}]
  if twice:
    raise UserError(f"the sweep has this point twice: {twice[0]}")
  return trials


def _identity(checkpoint: str, step: int | None) -> str:
  """Return a digest that identifies a model regardless of its path."""
  folder = as_path(pretrained.find(checkpoint))
  return digest_folder(folder, step) if folder.is_dir() else checkpoint


def run_trials(
    trials: Sequence[Trial], processes: int, shard: tuple[int, int], say: Callable[[str], None] = print
) -> None:
  """Run the trials of one shard that have no result yet.

  Args:
    trials: trials of the whole sweep.
    processes: number of points that run at once.
    shard: number of this shard, from 0, and number of shards.
    say: function that is called with a line when a point starts or ends.
  """
  if not 0 <= shard[0] < shard[1]:
    raise UserError(f"--shard: expected I/N with I from 0 to N - 1, got {shard[0]}/{shard[1]}")
  # Points with a given checkpoint need not wait for each other, so each is a group.
  groups: dict[str, list[Trial]] = {}
  for trial in trials:
    groups.setdefault(trial.group if trial.content["experiment"] else str(trial.folder), []).append(trial)
  mine = list(groups.values())[shard[0] :: shard[1]]
  running: set[subprocess.Popen] = set()
  stopping = threading.Event()
  with _exit_on_sigterm(), concurrent.futures.ThreadPoolExecutor(processes) as pool:
    futures = [pool.submit(_run_group, group, running, stopping, say) for group in mine]
    try:
      for future in futures:
        future.result()
    except BaseException:
      stopping.set()
      pool.shutdown(wait=False, cancel_futures=True)
      for process in list(running):
        process.terminate()
      raise


@contextlib.contextmanager
def _exit_on_sigterm() -> Generator[None]:
  """Turn SIGTERM into an exception, so that child processes are ended too."""
  previous = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _log_file(path: Path) -> Generator[IO[str]]:
  """Open the log of a point, which can be read while it grows; in a bucket it appears at the end."""
  with contextlib.ExitStack() as stack:
    local = stack.enter_context(replacing(path)) if is_remote(path) else path
    yield stack.enter_context(open(local, "w", encoding="utf-8"))


def _run_group(
    group: Sequence[Trial], running: set[subprocess.Popen], stopping: threading.Event, say: Callable[[str], None]
) -> None:
  for trial in group:
    if stopping.is_set():
      return
    if trial.result is not None:
      say(f"{label(trial.point)}: done before")
      trial.keep()
      continue
    say(f"{label(trial.point)}: begins")
    failed = trial.folder / "error.txt"
    failed.unlink(missing_ok=True)
    content = trial.folder / "trial.json"
    write_atomically(content, json.dumps(trial.content, indent=1) + "\n")
    with _log_file(trial.folder / "log.txt") as log:
      process = subprocess.Popen([*COMMAND, str(content)], stdout=log, stderr=log)
      running.add(process)
      code = process.wait()
      running.discard(process)
    if trial.result is None and stopping.is_set():
      say(f"{label(trial.point)}: stopped")
    elif trial.result is None:
      lines = (trial.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
      reason = lines[-1].removeprefix("error: ") if lines else ""
      reason = reason if code > 0 else f"ended by signal {-code}"
      write_atomically(failed, f"{reason or 'no result'}\n")
      say(f"{label(trial.point)}: failed: {reason}; see {trial.folder / 'log.txt'}")
    else:
      trial.keep()
      say(f"{label(trial.point)}: {', '.join(f'{name} {value:.3g}' for name, value in trial.result.items())}")
