"""Tone mapping from high dynamic range to eight bits: PQ and HLG (ITU-R BT.2100) with primaries of BT.2020.

Code values are converted to light relative to paper white, 203 cd/m² (BT.2408). Light up to `_KNEE` is kept, and
brighter light is compressed into the rest by the largest of the three primaries, which preserves hues. HLG is rendered
for a screen of 1000 cd/m², whose system gamma is 1.2.
"""

import functools

import av
import numpy as np
from jaxtyping import Float, UInt8, UInt16

from nova_jax.media.formats import Unreadable

_PQ, _HLG = 16, 18  # Transfer characteristics, ITU-T H.273.
_BT2020 = 9  # Primaries.
_NOT_YUV = (14, 15)  # Matrix coefficients of ICtCp, which a matrix alone can't convert.
_WHITE = 203.0
_KNEE, _PEAK = 0.75, 1000.0 / _WHITE
_ROWS = 64  # Rows at once, which bounds memory.
_SCREEN_GAMMA = 2.2
_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)


def is_hdr(image: av.VideoFrame) -> bool:
  """Return whether a frame has high dynamic range.

  Raises:
    Unreadable: its colours are stored in an unsupported way.
  """
  if image.colorspace in _NOT_YUV:
    raise Unreadable("its colours are ICtCp (Dolby Vision), which can't be shown: convert it to BT.709 or HDR10")
  return image.color_trc in (_PQ, _HLG)


def tone_mapped(image: av.VideoFrame, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
  """Return a frame of high dynamic range in eight bits, resized."""
  codes = image.reformat(width, height, "rgb48le", interpolation="BICUBIC").to_ndarray()
  return shown(codes, image.color_trc, image.color_primaries)


def shown(
    codes: UInt16[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w 3"], transfer: int, primaries: int
) -> UInt8[np.ndarray, "h w 3"]:
  """Convert code values of 8 or 16 bits to eight bits of standard range.

  Args:
    codes: red, green and blue in full range.
    transfer, primaries: numbers of ITU-T H.273; values with a transfer other than PQ and HLG are not changed.
  """
  if transfer not in (_PQ, _HLG):
    return codes
  result = np.empty(codes.shape, np.uint8)
  for top in range(0, len(codes), _ROWS):
    rows = codes[top : top + _ROWS]
    rows = rows * np.uint16(257) if rows.dtype == np.uint8 else rows
    result[top : top + _ROWS] = _shown(rows, transfer, primaries)
  return result


def _shown(codes: UInt16[np.ndarray, "h w 3"], transfer: int, primaries: int) -> UInt8[np.ndarray, "h w 3"]:
  light = _light(transfer)[codes]
  if transfer == _HLG:
    light *= (light @ _LUMINANCE)[..., None] ** 0.2 * (1000 / _WHITE)
  if primaries == _BT2020:
    light = (light @ _TO_BT709.T).clip(0)
  brightest = light.max(-1, keepdims=True)
  light *= _compressed(brightest) / np.maximum(brightest, 1e-6)
  return (light.clip(0, 1) ** (1 / _SCREEN_GAMMA) * 255).round().astype(np.uint8)


def _compressed(light: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
  """Keep light below the knee, and compress brighter light so that the peak becomes 1."""
  above = (light - _KNEE).clip(0) / (1 - _KNEE)
  limit = (_PEAK - _KNEE) / (1 - _KNEE)
  return np.where(light <= _KNEE, light, _KNEE + (1 - _KNEE) * above * (1 + above / limit**2) / (1 + above))


@functools.cache
def _light(transfer: int) -> Float[np.ndarray, "65536"]:
  """Return the light for each 16-bit code: relative to white for PQ, scene light from 0 to 1 for HLG."""
  codes = np.arange(65536) / 65535
  if transfer == _PQ:
    root = codes ** (1 / 78.84375)
    light = ((root - 0.8359375).clip(0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125) * (10000 / _WHITE)
  else:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    light = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)
  return light.astype(np.float32)
