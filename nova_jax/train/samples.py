"""Pictures of the training's progress."""

from pathlib import Path

from nova_jax.data.sources import Examples
from nova_jax.media import write_sheet
from nova_jax.parallel.processes import is_first
from nova_jax.pipeline import Pipeline

NUM_CLIPS = 8


def write_grid(path: Path, pipe: Pipeline, examples: Examples, seed: int, num_frames: int) -> None:
  """Generate clips for the captions (or classes) of some records, and write them as one PNG, a clip a row.

  Args:
    path: of the PNG; written whole or not at all.
    pipe: of the model with averaged weights.
    examples: the records.
    seed: of the generation.
    num_frames: of a clip.
  """
  # By all processes: the model may be spread over them.
  clips = pipe(**examples.condition, num_frames=num_frames, seed=seed)
  if is_first():
    write_sheet(path, list(clips), examples.captions)
