"""Notes of a run, in `run.json`: what it trains, on what data, and each start with code, versions, machine and times.

  {"id": …, "config": {…}, "data": {"data.sources.0.path": DIGEST, …},
   "starts": [{"began": …, "first_step": …, "code": {…}, "versions": {…}, "machine": {…}, "ended": …, "step": …,
               "end": "done"}, …]}

A start that was killed has no end; `lost_steps` and `lost_seconds` of the next one say what had been logged and is done
again. Notes that can't be written end no training.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import secrets
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

import nova_jax
from nova_jax.train.trackers.jsonl import NAME as METRICS
from nova_jax.train.trackers.jsonl import read_rows
from nova_jax.train.workdir import identity
from nova_jax.train.workdir.goodput import lost_work
from nova_jax.utils.errors import RunFailed, UserError
from nova_jax.utils.fields import to_dict
from nova_jax.utils.files import read_json, write_atomically
from nova_jax.utils.lease import check_held
from nova_jax.utils.processor import processor_name
from nova_jax.utils.terminal import say

if TYPE_CHECKING:
  from nova_jax.train.trainer import Trainer

NAME = "run.json"
VERSIONED = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_GIT_SECONDS = 10.0


@contextlib.contextmanager
def noted(trainer: Trainer) -> Generator[dict[str, Any]]:
  """Note that a process trains, and how that ends; call it in process 0 alone.

  Args:
    trainer: trainer that knows its step.

  Yields:
    All notes of the run, this start the last of `starts`.
  """
  path = trainer.workdir / NAME
  notes: dict[str, Any] = _earlier(path) | {"config": to_dict(trainer.cfg), "data": _digests(trainer.workdir)}
  start: dict[str, Any] = {
      "began": _now(), "first_step": trainer.step, "code": code_version(), "versions": versions(),
      "machine": _machine(trainer)}
  if notes["starts"]:  # Whose lines are still there.
    rows = read_rows(trainer.workdir / METRICS)
    lost = lost_work(rows, trainer.step, notes["starts"][-1].get("first_step", 0))
    start |= {"lost_steps": lost.steps, "lost_seconds": lost.seconds}
  notes["starts"].append(start)
  _write(path, notes)
  end = "failed"
  try:
    yield notes
    end = "done" if trainer.step == trainer.num_steps else f"stopped by {trainer.stop_cause}"
  except BaseException as error:
    end = f"{type(error).__name__}: {error}".partition("\n")[0]
    raise
  finally:
    start |= {"ended": _now(), "step": trainer.step, "end": end}
    with contextlib.suppress(RunFailed):  # Another process has taken the folder over; the notes are its own now.
      check_held(trainer.workdir)
      _write(path, notes)


def versions() -> dict[str, str]:
  """Return the versions of the packages on which numbers depend."""
  return {name: importlib.metadata.version(name) for name in VERSIONED}


def code_version() -> dict[str, Any]:
  """Return the version of the package; in a clone also its commit, and whether files were changed since."""
  root = Path(nova_jax.__file__).resolve().parents[1]
  found = {"version": nova_jax.__version__}
  if not (root / ".git").exists():
    return found
  with contextlib.suppress(OSError, subprocess.SubprocessError):  # There may be no git.
    return found | {"commit": _git(root, "rev-parse", "HEAD"), "changed": bool(
        _git(root, "status", "--porcelain", "--untracked-files=no"))}
  return found


def _git(root: Path, *args: str) -> str:
  return subprocess.run(
      ["git", "-C", str(root), *args], capture_output=True, check=True, text=True, encoding="utf-8",
      timeout=_GIT_SECONDS).stdout.strip()


def _earlier(path: Path) -> dict[str, Any]:
  """Return the notes of earlier starts, or those of none, with an id for the run."""
  if path.exists():
    try:
      notes = read_json(path)
      if isinstance(notes.get("id"), str) and isinstance(notes.get("starts"), list):
        return notes
      say(f"note: {path} has no notes of a run; they begin anew")
    except (UserError, OSError) as error:
      say(f"note: {error}; the notes of the run begin anew")
  return {"id": secrets.token_hex(4), "starts": []}


def _digests(workdir: Path) -> dict[str, str]:
  """Return the digests of what the run learns from and starts from, by the config's field."""
  return {name: found["digest"] for name, found in read_json(workdir / identity.NAME).items()}


def _machine(trainer: Trainer) -> dict[str, Any]:
  kinds = collections.Counter(device.device_kind for device in trainer.mesh.devices.flat)
  return {
      "host": socket.gethostname(), "system": platform.platform(), "python": platform.python_version(),
      "processor": processor_name(), "cores": os.cpu_count(), "processes": jax.process_count(), "devices": dict(kinds),
      "mesh": dict(trainer.mesh.shape), "command": sys.argv}


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _write(path: Path, notes: dict[str, Any]) -> None:
  try:
    write_atomically(path, json.dumps(notes, indent=2) + "\n")
  except OSError as error:
    say(f"note: {path} can't be written ({error.strerror}); training goes on")
