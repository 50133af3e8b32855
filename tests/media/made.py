"""Made-up videos of many kinds: frames that tell their number, codecs, containers and times."""

from fractions import Fraction

import av
import numpy as np

STEP = 8  # By which the brightness of frames differs.
CLOSED = {"x264-params": "keyint=10:min-keyint=10:bframes=3:scenecut=0", "qp": "4"}
OPEN = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0", "qp": "4"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=20:bframes=0", "qp": "4"}


def shades(count, height=48, width=64):
  return np.stack([np.full((height, width, 3), STEP * i, np.uint8) for i in range(count)])


def write(path, frames, codec="libx264", pix_fmt="yuv420p", options=None, container=None, mux=None, times=None,
          rate=25, prepare=None, change=None):
  """Write frames, optionally at times in milliseconds; `prepare` sees the stream and `change` each frame."""
  with av.open(str(path), "w", format=container, options=mux or {}) as out:
    stream = out.add_stream(codec, rate=rate, options=options or {})
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
    if times is not None:
      stream.codec_context.time_base = Fraction(1, 1000)
    if prepare:
      prepare(stream)
    for number, pixels in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[-1] == 4 else "rgb24")
      if change:
        frame = change(frame)
      frame.pts, frame.time_base = (number, Fraction(1, rate)) if times is None else (times[number], Fraction(1, 1000))
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
  return path


def cut(source, path, first):
  """Copy what lies behind some packets of a video."""
  with av.open(str(source)) as there, av.open(str(path), "w") as here:
    stream = here.add_stream_from_template(there.streams.video[0])
    for number, packet in enumerate(there.demux(video=0)):
      if packet.dts is not None and number >= first:
        packet.stream = stream
        here.mux(packet)
  return path


def numbers(footage):
  """Which frames of `shades` a footage has."""
  return [round(float(frame.upright().mean()) / STEP) for frame in footage.frames]
