"""Reads the small files of a published folder: its index, its scheduler and its transformer's config."""

from collections.abc import Callable
from pathlib import Path

from nova_jax.checkpoints import published_configs
from nova_jax.checkpoints.components import open_unwrapped
from nova_jax.checkpoints.weight_files import CONFIG, read_config
from nova_jax.config import ModelConfig, SchedulerConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_regular

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"


def is_there(file: Path) -> bool:
  """Return whether a file exists; raises UserError for a broken link, as cut downloads leave it."""
  return (file.exists() or file.is_symlink()) and check_regular(file) is not None


def published_model(folder: Path, notes: list[str]) -> ModelConfig:
  """Return the model config of a published transformer folder, and append notes for the user to `notes`."""
  config = read_config(folder / CONFIG)
  completed = published_configs.with_mixer(config, open_unwrapped(folder)[0])
  if completed != config:
    notes.append(
        f"{folder / CONFIG} has no video_mixer_rank, but the weights have that layer: taken as "
        f"{completed['video_mixer_rank']}")
  return naming(folder / CONFIG, published_configs.model_config, completed)


def published_scheduler(path: Path) -> SchedulerConfig:
  """Return the scheduler config of a published folder; the default if it neither has nor names one."""
  named = read_config(path / INDEX).get("scheduler") if is_there(path / INDEX) else None
  if not is_there(path / SCHEDULER):
    if named:
      raise UserError(f"{path}: {INDEX} names a scheduler, but there is no {SCHEDULER}: fetch the folder again")
    return SchedulerConfig()
  module = str(named[0]) if isinstance(named, list) and named else ""
  library = "diffusers" if module.split(".")[0] == "diffusers" else "nova"
  cfg = naming(path / SCHEDULER, published_configs.scheduler_config, read_config(path / SCHEDULER), library)
  naming(path / SCHEDULER, make_scheduler, cfg)  # Performs further checks.
  return cfg


def naming(file: Path, function: Callable, *arguments):
  """Call a function, and add the name of the file to its errors."""
  try:
    return function(*arguments)
  except ValueError as error:
    raise UserError(f"{file}: {error}") from None
