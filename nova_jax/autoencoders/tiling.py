"""Tiles of clips in time, which determine the number of latents of a clip, and tiles in space.

A video autoencoder takes tiles of at most `frames` frames. The first frame of a tile has its own latent:
  1 + stride · k frames ↔ 1 + k latents.
A tile starts with the last frame of the previous tile, and for OpenSora also with its last latent. The shared part is
dropped from the later tile. The published code drops the frames after the last whole tile. Here the last tile may be
shorter, and a clip that ends between two latents is extended by repeating its last frame.
Invariant: every frame is encoded and every latent decoded.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from nova_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class TimeTiles:
  """Lengths of tiles in time.

  Attributes:
    frames: number of frames in a whole tile.
    latents: number of latents in a whole tile.
    overlap: number of latents that consecutive tiles share. They share one frame, or none if a tile is one frame.
    stride: number of frames per latent, after the first.
  """

  frames: int
  latents: int
  overlap: int
  stride: int

  def __post_init__(self):
    assert self.frames == self.frames_of_tile(self.latents), self

  @property
  def frame_overlap(self) -> int:
    """Number of frames that consecutive tiles share."""
    return min(1, self.frames - 1)

  def frame_tiles(self, num_frames: int) -> list[slice]:
    """Return the frames of each tile; the last tile may be shorter."""
    return _tiles(num_frames, self.frames, self.frame_overlap)

  def latent_tiles(self, num_latents: int) -> list[slice]:
    """Return the latents of each tile; the last tile may be shorter.

    Raises:
      UserError: no clip has this number of latents.
    """
    tiles = _tiles(num_latents, self.latents, self.overlap)
    if len(tiles) > 1 and tiles[-1].stop - tiles[-1].start <= self.frame_overlap:
      raise UserError(
          f"{num_latents} latents: the last would hold only a frame that the ones before it hold, "
          f"as tiles have {self.latents}; take {num_latents - 1} or {num_latents + 1}")
    return tiles

  def latents_of_tile(self, num_frames: int) -> int:
    """Return the number of latents of one tile of `num_frames` frames."""
    return -(-(num_frames - 1) // self.stride) + 1

  def frames_of_tile(self, num_latents: int) -> int:
    """Return the number of frames of one tile of `num_latents` latents."""
    return self.stride * (num_latents - 1) + 1

  def num_latents(self, num_frames: int) -> int:
    """Return the number of latents of a clip of `num_frames` frames."""
    tiles = self.frame_tiles(num_frames)
    return sum(self.latents_of_tile(tile.stop - tile.start) for tile in tiles) - self.overlap * (len(tiles) - 1)

  def num_frames(self, num_latents: int) -> int:
    """Return the number of frames of a clip; raises UserError if no clip has this number of latents."""
    tiles = self.latent_tiles(num_latents)
    return sum(self.frames_of_tile(tile.stop - tile.start) for tile in tiles) - self.frame_overlap * (len(tiles) - 1)


def _tiles(length: int, size: int, overlap: int) -> list[slice]:
  if length < 1:
    raise UserError(f"a clip has 1 frame or more, got {length}")
  starts = range(0, max(length - overlap, 1), size - overlap)
  return [slice(start, min(start + size, length)) for start in starts]


def space_tiles(length: int, size: int) -> list[slice]:
  """Return tiles of equal size that overlap by at least a quarter; a single tile if `length` is smaller than `size`."""
  size = min(size, length)
  overlap = size // 4
  starts = (min(start, length - size) for start in range(0, length - overlap, size - overlap))
  return [slice(start, start + size) for start in starts]


def blend(parts: Iterable[tuple[slice, slice, Float[np.ndarray, "B T h w C"]]]) -> Float[np.ndarray, "B T H W C"]:
  """Return the weighted mean of overlapping tiles, given as (rows, columns, tile); weights fall towards the edges."""
  parts = list(parts)
  batch_and_time, channels = parts[0][2].shape[:2], parts[0][2].shape[-1]
  size = (max(rows.stop for rows, _, _ in parts), max(columns.stop for _, columns, _ in parts))
  total, weights = np.zeros((*batch_and_time, *size, channels), np.float32), np.zeros((*size, 1), np.float32)
  for rows, columns, part in parts:
    weight = np.outer(_ramp(part.shape[2]), _ramp(part.shape[3]))[..., None]
    total[:, :, rows, columns] += part * weight
    weights[rows, columns] += weight
  return total / weights


def _ramp(size: int) -> Float[np.ndarray, "size"]:
  """Return weights that rise to 1 over the first quarter and fall over the last."""
  places = np.arange(size, dtype=np.float32) + 0.5
  return np.minimum(np.minimum(places, size - places) / max(size // 4, 1), 1)
