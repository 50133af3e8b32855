"""A frame as it is stored, with the geometry in which it is displayed."""

import dataclasses
import math

import av
import av.sidedata.sidedata
import numpy as np
from jaxtyping import UInt8

from nova_jax.media import hdr


@dataclasses.dataclass(frozen=True)
class Frame:
  """A frame of a video or a picture.

  Attributes:
    time: time at which it is shown, in seconds from the beginning of the file.
    image: pixels, without transparency.
    stretch: width of a pixel divided by its height.
    turns: number of quarter turns to the left that make it upright.
    mirrored: whether left and right are swapped before the turns.
  """

  time: float
  image: av.VideoFrame
  stretch: float = 1.0
  turns: int = 0
  mirrored: bool = False

  @property
  def shape(self) -> tuple[float, float]:
    """Height and width as displayed."""
    height, width = self.image.height, self.image.width * self.stretch
    return (width, height) if self.turns % 2 else (height, width)

  def stored(self, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Return the pixels as stored in the file, resized."""
    if hdr.is_hdr(self.image):
      return hdr.tone_mapped(self.image, height, width)
    return self.image.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()

  def turn(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Turn pixels, given as stored in the file, upright."""
    return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns)

  def upright(self) -> UInt8[np.ndarray, "height width 3"]:
    """Return the pixels as displayed, square and upright."""
    height, width = self.image.height, self.image.width
    if self.stretch > 1:  # No pixel is lost.
      width = max(1, round(width * self.stretch))
    elif self.stretch < 1:
      height = max(1, round(height / self.stretch))
    return self.turn(self.stored(height, width))


def orientation(image: av.VideoFrame) -> tuple[int, bool]:
  """Return the quarter turns to the left and the mirroring before them that a video's display matrix specifies."""
  key = av.sidedata.sidedata.Type.DISPLAYMATRIX
  data = image.side_data.get(key)  # ty: ignore[no-matching-overload] (a mapping)
  if data is None:
    return 0, False
  a, b, _, c, d, *_ = np.frombuffer(data, np.int32, 9).tolist()  # x, y become a·x + c·y, b·x + d·y.
  mirrored = a * d < b * c
  if mirrored:
    a, b = -a, -b
  return round(math.atan2(c - b, a + d) / (math.pi / 2)) % 4, mirrored
