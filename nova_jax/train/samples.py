"""Pictures of the training's progress."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nova_jax.distributed import is_first
from nova_jax.media import write_sheet
from nova_jax.pipeline import Pipeline

NUM_CLIPS = 8


def write_grid(
    path: Path, pipe: Pipeline, records: Sequence[Mapping[str, Any]], seed: int, num_frames: int
) -> None:
  """Generate clips for the captions (or classes) of some records, and write them as one PNG, a clip a row.

  Args:
    path: of the PNG; written whole or not at all.
    pipe: of the model with averaged weights.
    records: have a `caption` and a `digit`.
    seed: of the generation.
    num_frames: of a clip.
  """
  # Neighbouring records move alike; every 11th shows another digit in another direction.
  records = [records[11 * i % len(records)] for i in range(NUM_CLIPS)]
  captions = [record["caption"].decode() for record in records]
  labels = [int(record["digit"]) for record in records]
  condition = {"prompt": captions} if pipe.cfg.text_dim else {"label": labels}
  clips = pipe(**condition, num_frames=num_frames, seed=seed)  # By all processes: the model may be spread over them.
  if is_first():
    write_sheet(path, list(clips), captions)
