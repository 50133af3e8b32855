"""Frame prediction: real clips, and samples that begin with their first frames.

  real/{number:05}_{name}.avi                     first frames of a real clip, in the model's size, without loss
  generated/{number:05}_{name}_{sample:03}.avi    the given frames, as the model decodes them, and predicted ones

Of a folder with more clips than the protocol takes, evenly spaced ones are taken, in the order of their paths.
Invariant: which clips are taken, and their names, depend on the folder's relative paths alone.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from nova_jax.evals.benchmarks.layout import Item, Layout
from nova_jax.evals.features.extract import VIDEOS, find
from nova_jax.media.tables import check_rows, read_table
from nova_jax.storage import join
from nova_jax.utils.errors import UserError


class Protocol(NamedTuple):
  """How frames are predicted."""

  context_frames: int  # Number of given frames.
  num_frames: int  # Number of frames of a clip, given ones included.
  num_samples: int  # Number of samples for each clip.
  num_clips: int


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({
    "ucf101": Protocol(4, 16, 100, 256), "bair": Protocol(2, 30, 100, 256), "kinetics600": Protocol(5, 16, 1, 50_000)})


class _Clip(NamedTuple):
  """A real clip."""

  path: Path
  text: str = ""  # Text that the model reads.
  label: int | None = None


def prediction_layout(benchmark: str, source: Path, protocol: Protocol) -> Layout:
  """Return the layout of predictions for real clips.

  Args:
    benchmark: name of the benchmark, one of `PROTOCOLS`.
    source: folder of videos, or table with `path` and, if the model needs it, `caption` or `label`.
    protocol: how frames are predicted.

  Raises:
    UserError: there are no clips, or nothing is left to predict.
  """
  if protocol.num_frames <= protocol.context_frames:
    raise UserError(
        f"--num_frames: given frames count, too, so {protocol.num_frames} leave none to predict of "
        f"{protocol.context_frames} given ones (--context_frames)")
  clips, notes = _read(source), []
  if len(clips) < protocol.num_clips:
    notes.append(f"{source} has {len(clips)} clips; {benchmark} takes {protocol.num_clips} (--num_clips)")
  count = min(len(clips), protocol.num_clips)
  items, real = [], {}
  for number in range(count):
    clip = clips[number * len(clips) // count]
    name = f"{number:05}_{clip.path.stem}"
    real[f"real/{name}.avi"] = clip.path
    items += [
        Item(f"generated/{name}_{j:03}.avi", name, clip.text, (j,), clip.label, str(clip.path))
        for j in range(protocol.num_samples)]
  return Layout(benchmark, tuple(items), {}, tuple(notes), real, protocol.context_frames)


def _read(source: Path) -> list[_Clip]:
  if source.is_dir():
    return [_Clip(path) for path in find(source, VIDEOS)]
  table = read_table(source)
  if "path" not in table.columns or not {"caption", "label"} & set(table.columns) and len(table.columns) > 1:
    raise UserError(f"--prompts: {source}: expected a folder of videos, or a table with path, and caption or label")
  clips = []
  for row in check_rows(table).rows:
    path, label = row.values.get("path"), row.values.get("label")
    if not path or not isinstance(path, str):
      raise UserError(f"{row.where}: expected the path of a video, got {path!r}")
    if label is not None and not str(label).strip().isdecimal():
      raise UserError(f"{row.where}: label: expected the number of a class, got {label!r}")
    clips.append(_Clip(
        join(source.parent, path), str(row.values.get("caption") or ""), None if label is None else int(label)))
  return clips
