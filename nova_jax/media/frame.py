"""A frame as it is stored, and how it is meant to be seen."""

import dataclasses
import math

import av
import numpy as np
from jaxtyping import UInt8

from nova_jax.media import hdr


@dataclasses.dataclass(frozen=True)
class Frame:
  """A frame.

  Attributes:
    time: at which it is shown, in seconds from the file's beginning.
    image: its pixels, without transparency.
    stretch: width of a pixel by its height.
    turns: quarter turns to the left that make it upright.
    mirrored: whether left and right are to be swapped, before the turns.
  """

  time: float
  image: av.VideoFrame
  stretch: float = 1.0
  turns: int = 0
  mirrored: bool = False

  @property
  def shape(self) -> tuple[float, float]:
    """Height and width as it is meant to be seen."""
    height, width = self.image.height, self.image.width * self.stretch
    return (width, height) if self.turns % 2 else (height, width)

  def stored(self, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Return its pixels as they lie in the file, resized."""
    if hdr.is_hdr(self.image):
      return hdr.tone_mapped(self.image, height, width)
    return self.image.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()

  def turn(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Return pixels as they lie in the file upright."""
    return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns)

  def upright(self) -> UInt8[np.ndarray, "height width 3"]:
    """Return its pixels as they are meant to be seen, square and upright."""
    height, width = self.image.height, self.image.width
    if self.stretch > 1:  # No pixel is lost.
      width = max(1, round(width * self.stretch))
    elif self.stretch < 1:
      height = max(1, round(height / self.stretch))
    return self.turn(self.stored(height, width))


def orientation(image: av.VideoFrame) -> tuple[int, bool]:
  """Return the quarter turns to the left, after a mirroring or none, that a video's display matrix asks for."""
  data = image.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
  if data is None:
    return 0, False
  a, b, _, c, d, *_ = np.frombuffer(data, np.int32, 9).tolist()  # x, y become a·x + c·y, b·x + d·y.
  mirrored = a * d < b * c
  if mirrored:
    a, b = -a, -b
  return round(math.atan2(c - b, a + d) / (math.pi / 2)) % 4, mirrored
