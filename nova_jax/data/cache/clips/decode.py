"""Footage of an item: of a file or part of one, of bytes in a table, or of arrays of a TFDS dataset."""

import contextlib
import dataclasses
import io
import stat
from collections.abc import Generator, Mapping
from typing import Any, BinaryIO

import av
import numpy as np

from nova_jax.data.cache.items.cells import Unusable
from nova_jax.data.cache.items.item import Cell, Held, Piece
from nova_jax.media.footage import Footage, between
from nova_jax.media.footage import open_footage as open_file
from nova_jax.media.frame import Frame
from nova_jax.storage import fetched, is_remote
from nova_jax.storage.parts import PartReader
from nova_jax.utils import limits


@contextlib.contextmanager
def open_footage(
    media: Piece | Cell | Held | Mapping[str, Any], start: float | None = None, end: float | None = None
) -> Generator[Footage]:
  """Open a clip or still, or the part of a clip between two times in seconds.

  Args:
    media: where it lies, or an example of a TFDS dataset.
    start: None for the beginning.
    end: None for the end.

  Raises:
    Unusable, Unreadable: it can't be read; also raised while going through the frames.
    OSError: storage fails; likewise.
  """
  if isinstance(media, Mapping):
    footage = _of_arrays(media)
    yield dataclasses.replace(footage, frames=between(footage.frames, start, end))
    return
  with contextlib.ExitStack() as stack:
    if isinstance(media, Piece) and not media.packing and is_remote(media.path):
      content = stack.enter_context(fetched(media.path, media.start, media.size))  # Decoders jump to and fro.
    elif isinstance(media, Piece) and not media.packing:
      if not stat.S_ISREG(media.path.stat().st_mode):
        raise Unusable("it is neither a file nor a link to one; devices, pipes and sockets are not read")
      content = stack.enter_context(media.path.open("rb"))
      if media.size is not None:
        whole, first = content, media.start
        content = io.BufferedReader(PartReader(media.size, lambda at, size: _read_part(whole, first + at, size)))
    else:
      content = media.read(limits.ROW_BYTES) if isinstance(media, Piece) else media.read()
    yield stack.enter_context(open_file(content, start, end))


def _read_part(file: BinaryIO, start: int, size: int) -> bytes:
  file.seek(start)
  return file.read(size)


def _of_arrays(example: Mapping[str, Any]) -> Footage:
  still = "video" not in example
  pixels = np.asarray(example["image"][None] if still else example["video"])
  if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not pixels.size:
    raise Unusable(f"expected uint8 pixels with 1 or 3 channels, got {pixels.dtype} {pixels.shape}")
  rate = 0.0 if still or "fps" not in example else float(example["fps"])
  rate = rate if 0 < rate < np.inf else None
  pixels = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))
  images = (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in pixels)
  return Footage((Frame(i / (rate or 25.0), image) for i, image in enumerate(images)), rate, still)
