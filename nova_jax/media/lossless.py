"""Writes clips as videos without loss, for scores that compare pixels; few players show them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from nova_jax.media.write import enlarge
from nova_jax.utils.files import replacing


def write_avi(path: str | Path, clip: UInt8[np.ndarray, "T height width C"], fps: float) -> None:
  """Write a clip, in colour, as an AVI of FFV1 in RGB. Reading it gives the same pixels, and its bytes never vary."""
  with replacing(path) as temporary, av.open(str(temporary), "w", format="avi") as container:
    stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001), options={"threads": "1"})
    stream.pix_fmt, (stream.height, stream.width) = "bgr0", clip.shape[1:3]
    for frame in enlarge(clip, 1):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
    container.mux(stream.encode())
