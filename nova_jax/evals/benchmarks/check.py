"""Checks that a folder has exactly the files that its official scorer reads, and that each file is intact.

Other files mislead scorers, which list folders: VBench takes the suffix of all videos from the first name,
T2I-CompBench reads a number from every name, and DPG-Bench opens every file.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nova_jax.evals.benchmarks.layout import Item, Layout
from nova_jax.evals.benchmarks.sampling import MANIFEST, checksum
from nova_jax.media import moving
from nova_jax.media.footage import open_footage
from nova_jax.media.formats import open_container, open_content, open_picture, reading
from nova_jax.storage import names_below
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_regular, read_json
from nova_jax.utils.progress import Progress
from nova_jax.utils.terminal import command
from nova_jax.utils.text_files import read_text

_SHOWN = 20  # Largest number of names of each kind to print.
_SAME = 2  # Largest difference, in steps of 255, between pixels of one colour after compression.


class Report(NamedTuple):
  """Problems of a folder, as names of files."""

  missing: list[str]
  strange: list[str]  # Files that are not part of the layout.
  broken: list[str]  # Files that can't be read.
  misnamed: list[str]  # Files of another format than their names say.
  unlike: list[str]  # Files of another size or length than most.
  changed: list[str]  # Files that differ from what was written, by checksum.
  plain: list[str]  # Files of one colour, like all others in their folder, which suggests that generation failed.
  shape: tuple[int, ...]  # Frames, height and width of most files.
  count: int

  @property
  def is_good(self) -> bool:
    return not any(self[:7])

  def lines(self) -> list[str]:
    """Return the report as lines of text."""
    frames, height, width = self.shape
    found = f"{frames} frames of {width} x {height}" if frames > 1 else f"{width} x {height} pixels"
    lines = [f"{self.count - len(self.missing)} of {self.count} files, {found}"]
    for name, meaning in (
        ("missing", "missing"), ("strange", "not part of the layout"), ("broken", "can't be read"),
        ("misnamed", "of another kind than their names say"),
        ("unlike", "of another size or length than the others"), ("changed", "changed since they were written"),
        ("plain", "of one colour, as is every file in their folder: nothing was made")):
      paths = getattr(self, name)
      if paths:
        lines.append(f"{len(paths)} {meaning}:")
        lines += [f"  {path}" for path in paths[:_SHOWN]]
        lines += [f"  … and {len(paths) - _SHOWN} more"] if len(paths) > _SHOWN else []
    return lines


def layout_from_manifest(output: Path) -> Layout:
  """Read the layout from the manifest of a run.

  Raises:
    UserError: there is no manifest, or another tool wrote it.
  """
  manifest = read_json(output / MANIFEST)
  try:
    items = [
        Item(path, entry["prompt"], entry["text"], tuple(range(len(entry["seeds"]))), entry.get("label"))
        for path, entry in manifest["files"].items()]
    return Layout(
        manifest["benchmark"], tuple(items), manifest["texts"], (), dict.fromkeys(manifest.get("clips", ())),
        manifest.get("context_frames", 0))
  except (AttributeError, KeyError, TypeError):
    raise UserError(f"{output / MANIFEST} is not one that {command('evaluate')} wrote") from None


def is_ours(output: Path) -> bool:
  """Return whether the manifest in a folder is that of a run of `launch.evaluate`."""
  try:
    layout_from_manifest(output)
  except UserError:
    return False
  return True


def check(layout: Layout, scored: Path, checksums: Path | None = None) -> Report:
  """Compare a scored folder with a layout, and open every sample.

  Args:
    layout: expected layout.
    scored: folder that the scorer reads.
    checksums: file with the checksums of the files as they were written; None without one.
  """
  if not scored.is_dir():
    raise UserError(f"--check: there is no folder {scored}")
  found = set(names_below(scored))
  if layout.benchmark == "t2i_compbench":  # This scorer writes its results beside `samples`.
    found = {path for path in found if path.startswith("samples/")}
  if layout.benchmark == "vbench_long":  # This one cuts clips into folders beside them.
    found = {path for path in found if path.count("/") < 2}
  expected = layout.paths
  sums = read_json(checksums) if checksums is not None and checksums.is_file() else {}
  samples, broken, changed = {}, [], []
  present = [path for path in expected if path in found]
  with Progress("file", len(present)) as progress:
    for done, path in enumerate(present, 1):
      try:
        if sums and sums.get(path) != checksum(check_regular(scored / path)):
          changed.append(path)
        if path not in layout.texts:
          samples[path] = _read(scored / path)
        elif read_text(scored / path).strip() != layout.texts[path]:
          broken.append(path)
      except (OSError, UserError):
        broken.append(path)
      progress.show(done, what="reading")
  misnamed = [path for path, sample in samples.items() if sample is None]
  samples = {path: sample for path, sample in samples.items() if sample is not None}
  shapes = {path: sample.shape for path, sample in samples.items()}
  usual = Counter(shapes.values()).most_common(1)[0][0] if shapes else (0, 0, 0)
  return Report(
      [path for path in expected if path not in found], sorted(found - set(expected)), broken, misnamed,
      [path for path, shape in shapes.items() if shape != usual], changed, _plain(samples), usual, len(expected))


class _Sample(NamedTuple):
  """Content of a file."""

  shape: tuple[int, ...]  # Frames, height, width.
  is_plain: bool  # Whether each frame has only one colour.


def _read(path: Path) -> _Sample | None:
  """Read a whole sample; None if its format differs from its name."""
  animated, kinds = False, ""
  with reading(str(path)), open_content(path) as content:  # Libraries' calls alone: an error in here means damage.
    image = open_picture(content)
    if image is not None:
      animated, kinds = moving.is_animated(image), image.format or ""
    else:
      with open_container(content) as container:
        kinds = container.format.name
  if animated or path.suffix[1:] not in kinds.lower().split(","):
    return None
  count, shape, is_plain = 0, (), True
  with open_footage(path) as footage:
    for frame in footage.frames:
      pixels, count = frame.upright(), count + 1
      shape = pixels.shape[:2]
      is_plain = is_plain and np.ptp(pixels, axis=(0, 1)).max() <= _SAME
  if not count:
    raise UserError(f"{path} has no frames")
  return _Sample((count, *shape), is_plain)


def _plain(samples: Mapping[str, _Sample]) -> list[str]:
  """Return the files in folders in which every file has only one colour."""
  pictured = {os.path.dirname(path) for path, sample in samples.items() if not sample.is_plain}
  return [path for path in samples if os.path.dirname(path) not in pictured]
