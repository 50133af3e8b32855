"""The folder of a run, and who may continue in it.

  config.json  nova.json  checkpoints/  metrics.jsonl  tensorboard/  samples/step_NNNNNN.png

Invariant: all checkpoints of a folder come from one experiment.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nova_jax.config import Experiment
from nova_jax.fields import from_dict, to_dict
from nova_jax.files import write_atomically

# What may change between restarts: it alters no number of the training.
FREE_FIELDS = (
    "mesh", "sample", "data.num_workers", "data.data_dir", "data.max_damaged",
    "train.log_every", "train.sample_every", "train.save_every", "train.keep")


@contextlib.contextmanager
def claim(workdir: Path, experiment: Experiment) -> Iterator[None]:
  """Make `workdir` the folder of `experiment`, or check that it is, and keep other processes out meanwhile.

  Raises:
    ValueError: it belongs to another experiment (naming the fields that differ) or is no folder.
  """
  path = workdir / "config.json"
  config = json.loads(json.dumps(to_dict(experiment)))
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"--workdir {workdir} is a file; expected a folder, new or of an earlier run")
  if path.exists():
    try:
      stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
      raise ValueError(f"{path} is not JSON ({error}); use another --workdir or remove this one") from None
    with contextlib.suppress(ValueError):  # Fields that are gone by now will be found to differ.
      stored = json.loads(json.dumps(to_dict(from_dict(Experiment, stored))))  # Younger ones take their defaults.
    stored, given = _flatten(stored), _flatten(config)
    differing = [
        f"{name} was {stored.get(name)!r}, now {given.get(name)!r}"
        for name in sorted(stored.keys() | given.keys())
        if stored.get(name) != given.get(name) and not any(name == f or name.startswith(f + ".") for f in FREE_FIELDS)]
    if differing:
      raise ValueError(f"{workdir} holds a different experiment: {'; '.join(differing)}; use another --workdir")
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / ".lock", "w", encoding="utf-8") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Goes with the process, however it ends.
    except BlockingIOError:
      raise ValueError(f"{workdir}: another process is training here; wait for it or use another --workdir") from None
    write_atomically(path, json.dumps(config, indent=2) + "\n")
    yield


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
  """Return {"train.steps": 1000, …}; list elements are named by their index."""
  if isinstance(config, list):
    config = dict(enumerate(config))
  if not isinstance(config, Mapping) or (not config and prefix):
    return {prefix: config}
  children = (_flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in config.items())
  return {name: value for child in children for name, value in child.items()}
