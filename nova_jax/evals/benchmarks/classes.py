"""Class to image: as many pictures of each class, and the archive that ADM's evaluator reads.

  class_to_image/{number:05}_{class:04}.png     picture number i shows class i modulo the number of classes
  samples.npz                                   arr_0 uint8 [N, height, width, 3] and arr_1 int64 [N], in the same order

Classes take turns, since the evaluator computes the Inception Score of parts of 5,000 pictures in their order: of
pictures that are sorted by class a part would show few classes.
Invariant: the same pictures always give the same bytes of the archive.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from nova_jax.evals.benchmarks.layout import Item, Layout
from nova_jax.evals.features.extract import read_clip
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import write_atomically
from nova_jax.utils.progress import Progress

CLASS_TO_IMAGE = "class_to_image"
NUM_PICTURES = 50_000
ARCHIVE = "samples.npz"
_PICTURES, _LABELS = "arr_0.npy", "arr_1.npy"


def class_layout(num_pictures: int, num_classes: int) -> Layout:
  """Return the layout of the samples of a class-conditional model."""
  width, notes = max(5, len(str(num_pictures - 1))), ()
  if num_pictures % num_classes:
    notes = (
        f"{num_pictures} pictures of {num_classes} classes: the first {num_pictures % num_classes} classes have one "
        f"more than the others",)
  items = [
      Item(f"{i:0{width}}_{label:04}.png", f"class {label}", "", (i // num_classes,), label)
      for i in range(num_pictures) for label in [i % num_classes]]
  return Layout(CLASS_TO_IMAGE, tuple(items), {}, notes)


def write_archive(path: Path, scored: Path, items: Sequence[Item]) -> None:
  """Write all pictures and their classes as one `.npz`, one picture in memory at a time."""
  labels = np.array([item.label for item in items], np.int64)
  write_atomically(path, lambda partial: _write(partial, _pictures(scored, items), labels))


def archive_problem(path: Path, scored: Path, items: Sequence[Item]) -> str:
  """Return in what an archive differs from the pictures and their classes; "" if it is of them."""
  try:
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
      if not {_PICTURES, _LABELS} <= set(archive.namelist()):
        return f"has {', '.join(archive.namelist()) or 'nothing'}; expected {_PICTURES} and {_LABELS}"
      with archive.open(_LABELS) as file:
        labels = np.lib.format.read_array(file)
      if labels.tolist() != [item.label for item in items]:
        return f"has other classes in {_LABELS}"
      with archive.open(_PICTURES) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        for item, picture in zip(items, _pictures(scored, items), strict=True):
          if (len(items), *picture.shape) != shape or dtype != np.uint8:
            return f"has {dtype} {list(shape)} in {_PICTURES}; expected uint8 {[len(items), *picture.shape]}"
          if file.read(picture.size) != picture.tobytes():
            return f"has another picture in place of {item.path}"
  except (OSError, ValueError, zipfile.BadZipFile) as error:
    return f"can't be read: {error}"
  return ""


def _write(path: Path, pictures: Iterator[UInt8[np.ndarray, "height width 3"]], labels: np.ndarray) -> None:
  first = next(pictures)
  with zipfile.ZipFile(path, "w") as archive:
    # A name without a time: the bytes are those of the pictures alone.
    with archive.open(zipfile.ZipInfo(_PICTURES), "w", force_zip64=True) as file:
      header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *first.shape)}
      np.lib.format.write_array_header_1_0(file, header)
      file.write(first.tobytes())
      for picture in pictures:
        if picture.shape != first.shape:
          raise UserError(f"{path.name}: expected pictures of one size, got {first.shape} and {picture.shape}")
        file.write(picture.tobytes())
    with archive.open(zipfile.ZipInfo(_LABELS), "w") as file:
      np.lib.format.write_array(file, labels)


def _pictures(scored: Path, items: Sequence[Item]) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
  with Progress("picture", len(items)) as progress:
    for done, item in enumerate(items, 1):
      yield read_clip(scored / item.path)[0]
      progress.show(done, what=ARCHIVE)
