"""The folder of a run, and who may continue in it.

  config.json  identity.json  nova.json  run.json  checkpoints/  metrics.jsonl  tensorboard/  wandb/
  samples/step_NNNNNN.png

Invariant: all checkpoints of a folder come from one experiment, on the same data.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from nova_jax.checkpoints.store import finished_steps
from nova_jax.config import Experiment
from nova_jax.storage import is_remote
from nova_jax.train.workdir.identity import NAME, Identities, check_identities, identify, same_content
from nova_jax.train.workdir.prolong import PLAN, same_steps
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict, to_dict
from nova_jax.utils.files import read_json, write_atomically
from nova_jax.utils.lease import Taken, held
from nova_jax.utils.terminal import say

# What may change between restarts: it alters no number of the training.
FREE_FIELDS = (
    "mesh", "sample", "data.num_workers", "data.data_dir", "data.max_damaged", "eval.every", "eval.keep_best",
    "eval.patience", "eval.scores", "eval.score_every", "eval.real", "eval.features", "eval.features_weights",
    "eval.prompts",
    "train.log_every", "train.sample_every", "train.save_every", "train.save_minutes", "train.keep",
    "train.keep_every", "train.trackers")
_FOLDERS = ("init", "autoencoder", "text_encoder")  # Fields that hold a path, beside those of caches.


@contextlib.contextmanager
def claim(workdir: Path, experiment: Experiment) -> Generator[None]:
  """Make `workdir` the folder of `experiment`, or check that it is, and keep other processes out meanwhile.

  Paths may be others than before if what lies there is the same, and not if it isn't.

  Raises:
    UserError: it belongs to another experiment (naming the fields that differ) or is no folder.
  """
  path, identity = workdir / "config.json", workdir / NAME
  config = json.loads(json.dumps(to_dict(experiment)))
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir {workdir} is a file; expected a folder, new or of an earlier run")
  known = check_identities(_read(identity), identity) if identity.exists() else {}
  now = identify(experiment, known)
  if path.exists():
    _check_same(workdir, _read(path), experiment, known, now)
  with _alone(workdir):
    write_atomically(identity, json.dumps(known | now, indent=2) + "\n")
    write_atomically(path, json.dumps(config, indent=2) + "\n")
    yield


@contextlib.contextmanager
def _alone(workdir: Path) -> Generator[None]:
  """Keep other processes out of a workdir: by a lock that goes with this process, or in a bucket by a lease."""
  with contextlib.ExitStack() as stack:
    try:
      if is_remote(workdir):
        stack.enter_context(held(workdir, lambda text: say(f"note: {text}")))
      else:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(open(workdir / ".lock", "w", encoding="utf-8"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, Taken) as error:
      who = error if isinstance(error, Taken) else "another process"
      raise UserError(f"{workdir}: {who} is training here; wait for it or use another --workdir") from None
    yield


def _read(path: Path) -> dict[str, Any]:
  try:
    return read_json(path)
  except UserError as error:
    raise UserError(
        f"{error}; bring back a copy of the file, or remove this file alone to go on with the config that you give, or "
        "use another --workdir") from None


def _check_same(
    workdir: Path, stored: dict[str, Any], experiment: Experiment, known: Identities, now: Identities
) -> None:
  config = json.loads(json.dumps(to_dict(experiment)))
  steps, then = finished_steps(workdir / "checkpoints"), None
  lora = experiment.train.lora.rank > 0  # Its `init` is read at each start.
  with contextlib.suppress(ValueError):  # Fields that are gone by now will be found to differ.
    then = from_dict(Experiment, stored, tell_renamed=False)
    stored = json.loads(json.dumps(to_dict(then)))  # Younger ones take their defaults.
  stored, given = _flatten(stored), _flatten(config)
  differing, plan = [], []
  for name in sorted({*stored, *given, *known} - {"data"}):
    if any(name == field or name.startswith(field + ".") for field in FREE_FIELDS):
      continue
    was, value = stored.get(name), given.get(name)
    if name in now or name in known or name in _FOLDERS or name.endswith(".path"):
      if None not in (was, value) and same_content(name, known, now, was, value, bool(steps) and not lora):
        continue
      if name in now and name in known:
        moved = f"was {was!r}; " if os.path.realpath(str(was)) != os.path.realpath(str(value)) else ""
        differing.append(f"{name}: {moved}{value!r} holds something else than what the run began with")
        continue
    if was != value:
      kind = plan if then is not None and name in PLAN else differing
      kind.append(f"{name} was {_short(was)}, now {_short(value)}")
  if "data" in known and "data" in now and known["data"]["digest"] != now["data"]["digest"]:
    differing.append(f"data were {known['data']['digest']}, now {now['data']['digest']}")
  if differing:
    raise UserError(f"{workdir} holds a different experiment: {'; '.join(plan + differing)}; use another --workdir")
  if plan and then is not None:
    _check_prolonged(workdir, then, experiment, "; ".join(plan))


def _check_prolonged(workdir: Path, then: Experiment, now: Experiment, plan: str) -> None:
  """Refuse another number of steps unless the steps that are done stay as they are."""
  steps = finished_steps(workdir / "checkpoints")
  if same_steps(then, now, max(steps, default=0)):
    return
  way = "use another --workdir"
  if kept := [step for step in steps if same_steps(then, now, step)]:
    way = f"to continue from step {kept[-1]}, remove the checkpoints after it"
  raise UserError(f"{workdir} holds a different experiment: {plan}, which changes steps that are done; {way}")


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 200 else f"{text[:200]}…"


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
  """Return {"train.steps": 1000, …}; list elements are named by their index."""
  if isinstance(config, list):
    config = dict(enumerate(config))
  if not isinstance(config, Mapping) or (not config and prefix):
    return {prefix: config}
  children = (_flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in config.items())
  return {name: value for child in children for name, value in child.items()}
