"""Whether a folder is what its official scorer reads: nothing missing, nothing else, every file whole.

Scorers list folders, and are led astray by strangers: VBench takes the ending of all videos from the first name it
sees, T2I-CompBench reads a number from every name, DPG-Bench opens every file.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
from PIL import Image

from nova_jax.evals.benchmarks.layout import Item, Layout
from nova_jax.evals.benchmarks.sampling import MANIFEST, checksum
from nova_jax.files import read_json
from nova_jax.progress import Progress
from nova_jax.text_files import read_text

_SHOWN = 20  # Names of a kind that are printed.


class Report(NamedTuple):
  """What is wrong with a folder: names of files."""

  missing: list[str]
  strange: list[str]  # Not part of the layout.
  broken: list[str]  # Can't be read.
  unlike: list[str]  # Of another size or length than most.
  changed: list[str]  # Not what was written, by checksum.
  shape: tuple[int, ...]  # Of most files: frames, height, width.
  count: int

  @property
  def is_good(self) -> bool:
    return not any(self[:5])

  def lines(self) -> list[str]:
    """Return what a person reads."""
    frames, height, width = self.shape
    found = f"{frames} frames of {width} x {height}" if frames > 1 else f"{width} x {height} pixels"
    lines = [f"{self.count - len(self.missing)} of {self.count} files, {found}"]
    for name, meaning in (
        ("missing", "missing"), ("strange", "not part of the layout"), ("broken", "can't be read"),
        ("unlike", "of another size or length than the others"), ("changed", "changed since they were written")):
      paths = getattr(self, name)
      if paths:
        lines.append(f"{len(paths)} {meaning}:")
        lines += [f"  {path}" for path in paths[:_SHOWN]]
        lines += [f"  … and {len(paths) - _SHOWN} more"] if len(paths) > _SHOWN else []
    return lines


def layout_of(output: Path) -> Layout:
  """Read the layout that a run's manifest records."""
  manifest = read_json(output / MANIFEST)
  items = [
      Item(path, entry["prompt"], entry["text"], tuple(range(len(entry["seeds"]))))
      for path, entry in manifest["files"].items()]
  return Layout(manifest["benchmark"], tuple(items), manifest["texts"], ())


def check(layout: Layout, scored: Path, checksums: Path | None = None) -> Report:
  """Compare a scored folder with a layout, and open every sample.

  Args:
    layout: what should be there.
    scored: the folder that the scorer is given.
    checksums: of the files as they were written, if there are any.
  """
  if not scored.is_dir():
    raise ValueError(f"--check: there is no folder {scored}")
  found = {
      (Path(folder) / name).relative_to(scored).as_posix() for folder, _, names in os.walk(scored) for name in names}
  if layout.benchmark == "t2i_compbench":  # Its scorer writes its results beside `samples`.
    found = {path for path in found if path.startswith("samples/")}
  expected = layout.paths
  sums = read_json(checksums) if checksums is not None and checksums.is_file() else {}
  shapes, broken, changed = {}, [], []
  present = [path for path in expected if path in found]
  with Progress("file", len(present)) as progress:
    for done, path in enumerate(present, 1):
      if sums and sums.get(path) != checksum(scored / path):
        changed.append(path)
      try:
        if path not in layout.texts:
          shapes[path] = _shape(scored / path)
        elif read_text(scored / path).strip() != layout.texts[path]:
          broken.append(path)
      except (OSError, SyntaxError, ValueError, av.FFmpegError):  # What Pillow and FFmpeg raise.
        broken.append(path)
      progress.show(done, what="reading")
  usual = Counter(shapes.values()).most_common(1)[0][0] if shapes else (0, 0, 0)
  return Report(
      [path for path in expected if path not in found], sorted(found - set(expected)), broken,
      [path for path, shape in shapes.items() if shape != usual], changed, usual, len(expected))


def how_to_score(layout: Layout, scored: Path, shape: Sequence[int]) -> str:
  """Return how the official scorer is called on a finished folder."""
  return {
      "geneval": f"python evaluation/evaluate_images.py {scored} --outfile results.jsonl --model-path DETECTORS",
      "vbench": f"python evaluate.py --videos_path {scored}/SUITE --dimension DIMENSION, for each of its dimensions; "
                f"temporal_flickering after static_filter.py --videos_path {scored}/temporal_flickering",
      "dpg": f"bash dpg_bench/dist_eval.sh {scored} {shape[1] // 2}, the side of one of the four tiles",
      "t2i_compbench": f"python BLIP_vqa.py --out_dir={scored}/ and the like; one category a folder",
  }[layout.benchmark]


def _shape(path: Path) -> tuple[Any, ...]:
  """Read a sample whole; return frames, height and width."""
  if path.suffix == ".png":
    with Image.open(path) as image:
      image.load()
      return 1, image.height, image.width
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    count = sum(1 for _ in container.decode(stream))
    if not count:
      raise ValueError(f"{path} has no frames")
    return count, stream.height, stream.width
