"""Which frames a file has, at which times, in which places of a file, and how they are seen."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from media.made import CLOSED, OPEN, REFRESH, STEP, cut, numbers, shades, write
from PIL import Image

from nova_jax.media import videos
from nova_jax.media.clock import Clock
from nova_jax.media.decoding import CutOff
from nova_jax.media.footage import count_frames, open_footage
from nova_jax.media.formats import Unreadable
from nova_jax.utils import limits

LATE = {"times": [1000 + 40 * i for i in range(30)]}
MPEG2 = {"codec": "mpeg2video", "options": {"b": "5M", "g": "10", "bf": "2"}}
PIECES = {"movflags": "frag_keyframe+empty_moov"}
FILES = {
    "late.mkv": LATE | {"options": CLOSED},
    "late.mp4": LATE | {"options": CLOSED},
    "hours.ts": {"options": CLOSED, "times": [10**6 + 40 * i for i in range(30)]},
    "closed.ts": {"options": CLOSED},
    "open.ts": {"options": OPEN},
    "open.mp4": {"options": OPEN},
    "open_pieces.mp4": {"options": OPEN, "mux": PIECES},
    "refresh.ts": {"options": REFRESH},
    "refresh.mkv": {"options": REFRESH},
    "reordered.avi": {"options": CLOSED},
    "reordered4.avi": {"codec": "mpeg4", "options": {"b": "5M", "g": "10", "bf": "2"}},
    "bare.h264": {"options": OPEN, "container": "h264"},
    "bare.mpg": MPEG2 | {"container": "mpeg2video"},
    "program.mpg": MPEG2 | {"container": "mpeg"},
    "disc.vob": MPEG2 | {"container": "vob"},
    "alt.webm": {"codec": "libvpx", "options": {"g": "10", "lag-in-frames": "16", "b": "500k"}},
    "hevc.ts": {"codec": "libx265", "options": {
        "x265-params": "log-level=none:qp=4:open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0"}}}


@pytest.mark.parametrize("name", FILES)
def test_parts_are_those_of_the_whole_counted_from_the_beginning(tmp_path, name):
  write(tmp_path / name, shades(30), **FILES[name])
  with open_footage(tmp_path / name) as footage:
    whole = numbers(footage)
  assert np.abs(np.subtract(whole, range(30))).max() <= 1  # Old codecs are not exact.
  for start in (0.0, 0.12, 0.4, 0.52, 0.88, 1.16):
    first = round(start * 25)
    with open_footage(tmp_path / name, start) as footage:
      frames = list(footage.frames)
    assert [round(float(frame.upright().mean()) / STEP) for frame in frames] == whole[first:]
    assert np.allclose([frame.time for frame in frames], np.arange(first, 30) / 25, atol=2e-3)
    assert footage.rate == pytest.approx(25, abs=0.01)
  with open_footage(tmp_path / name, 0.52, 0.8) as footage:
    assert numbers(footage) == whole[13:20]
  with open_footage(tmp_path / name, 5.0) as footage:
    assert numbers(footage) == []


@pytest.mark.parametrize("codec, options, first", [("libx264", OPEN, 10), ("libx264", REFRESH, 5), ("libx265", {
    "x265-params": "log-level=none:qp=4:open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0"}, 5)])
@pytest.mark.parametrize("end", ["ts", "mkv"])
def test_what_comes_before_the_first_key_frame_of_a_cut_clip_is_no_damage(tmp_path, codec, options, first, end):
  write(tmp_path / "whole.ts", shades(30), codec=codec, options=options)
  with open_footage(cut(tmp_path / "whole.ts", tmp_path / f"part.{end}", first)) as footage:
    found = numbers(footage)
  assert found == [*range(30 - len(found), 30)] and len(found) >= 8


def textures(count):
  """Frames of a texture that moves, in which nothing is hidden by being alike."""
  texture = np.random.default_rng(0).integers(60, 200, (6 + count // 8, 8 + count // 4, 3), np.uint8)
  texture = texture.repeat(8, 0).repeat(8, 1)
  return np.stack([texture[i : 48 + i, 2 * i : 64 + 2 * i] for i in range(count)])


@pytest.mark.parametrize("name, settings", [("a.ts", {"options": REFRESH}), ("a.mp4", {"options": OPEN}), ("b.mp4", {
    "codec": "mpeg4", "options": {"g": "10", "bf": "2"}})])
def test_parts_and_cut_clips_are_exact(tmp_path, name, settings):
  with open_footage(write(tmp_path / name, textures(40), **settings)) as footage:
    whole = [frame.upright() for frame in footage.frames]
  for start in (0.52, 0.92, 1.2):
    with open_footage(tmp_path / name, start) as footage:
      assert np.array_equal([frame.upright() for frame in footage.frames], whole[round(start * 25) :])
  with open_footage(cut(tmp_path / name, tmp_path / "part.mkv", 1)) as footage:
    found = [frame.upright() for frame in footage.frames]
  assert 8 <= len(found) < 40 and np.array_equal(found, whole[-len(found) :])


def test_frames_that_a_stream_lost_whole_are_damage(tmp_path):
  content = write(tmp_path / "a.ts", shades(30) // 8, codec="mpeg2video", options={"g": "15", "bf": "0"}).read_bytes()
  packets = [content[place : place + 188] for place in range(0, len(content), 188)]
  video = [place for place, packet in enumerate(packets) if packet[1] & 31 == 1 and packet[2] == 0]
  lost = set(video[20:23])
  with open_footage(b"".join(packet for place, packet in enumerate(packets) if place not in lost)) as footage:
    with pytest.raises(Unreadable, match="data are missing before frame"):
      list(footage.frames)


def test_clips_that_were_joined_go_on(tmp_path):
  part = write(tmp_path / "a.ts", shades(30), options=CLOSED).read_bytes()
  with open_footage(part + part) as footage:
    frames = list(footage.frames)
  assert np.allclose([frame.time for frame in frames], np.arange(60) / 25, atol=1e-3)


def test_packets_that_a_stream_lost_are_damage(tmp_path):
  part = write(tmp_path / "a.ts", np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8), **MPEG2)
  content = part.read_bytes()
  half = len(content) // 2 // 188 * 188
  with open_footage(content[:half] + content[half + 4 * 188 :], name="a.ts") as footage:
    with pytest.raises(Unreadable, match="a.ts: (data are missing|can't be decoded)"):
      list(footage.frames)


@pytest.mark.parametrize("seen, expected", [
    ([0.5, None, None, 0.62], [0, 0.04, 0.08, 0.12]),
    ([None, 0.3, 0.34], [0, 0.04, 0.08]),
    ([0.0, 0.04, 0.03, 0.12, 0.16], [0, 0.04, 0.06, 0.12, 0.16]),
    ([9.0, 9.04, 0.0, 0.04], [0, 0.04, 0.08, 0.12])])
def test_times_that_are_missing_or_go_back(seen, expected):
  clock = Clock(25.0, None, careless=True)
  assert [clock.time(time) for time in seen] == pytest.approx(expected)


def test_frames_that_an_edit_hides_do_not_count(tmp_path):
  path = write(tmp_path / "a.mp4", shades(20), options={"qp": "4", "bf": "0"})
  content = path.read_bytes()
  place = content.index(b"elst") + 12  # Duration in the movie's time, and where it begins in the track's.
  duration, _ = struct.unpack(">Ii", content[place : place + 8])
  hidden = struct.pack(">Ii", duration * 3 // 4, 5 * 512)
  path.write_bytes(content[:place] + hidden + content[place + 8 :])
  with open_footage(path) as footage:
    assert numbers(footage) == [*range(5, 20)]
  with open_footage(path, 0.2) as footage:
    assert numbers(footage) == [*range(10, 20)]


# Of a display matrix, and where it puts the upper left corner.
MATRICES = {
    (1, 0, 0, 1): (0, 0), (0, 1, -1, 0): (0, 1), (-1, 0, 0, -1): (1, 1), (0, -1, 1, 0): (1, 0),
    (-1, 0, 0, 1): (0, 1), (1, 0, 0, -1): (1, 0), (0, 1, 1, 0): (0, 0), (0, -1, -1, 0): (1, 1)}


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_orientations(tmp_path, matrix):
  frames = np.zeros((2, 48, 96, 3), np.uint8)
  frames[:, :24, :48] = 255
  path = write(tmp_path / "a.mp4", frames)
  content = bytearray(path.read_bytes())
  a, b, c, d = (value << 16 for value in matrix)
  struct.pack_into(">9i", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
  with open_footage(bytes(content)) as footage:
    frame = next(footage.frames)
  pixels = frame.upright()[..., 0]
  assert pixels.shape == frame.shape == ((96, 48) if matrix[1] else (48, 96))
  rows, columns = np.nonzero(pixels > 128)
  assert (round(rows.mean() / len(pixels)), round(columns.mean() / pixels.shape[1])) == MATRICES[matrix]


def test_pixels_that_are_not_square_lose_nothing(tmp_path):
  for stretch, shape in ((2, (48, 128)), (0.5, (96, 64))):
    path = write(tmp_path / "a.mkv", shades(2), prepare=lambda stream: setattr(
        stream.codec_context, "sample_aspect_ratio", Fraction(stretch)))
    with open_footage(path) as footage:
      frame = next(footage.frames)
    assert frame.upright().shape[:2] == shape and frame.shape == (48, 64 * stretch)


@pytest.mark.parametrize("name, codec, pix_fmt", [
    ("a.mov", "qtrle", "argb"), ("b.mov", "prores_ks", "yuva444p10le"), ("c.mov", "png", "rgba"),
    ("d.mkv", "ffv1", "yuva420p"), ("e.webm", "libvpx-vp9", "yuva420p")])
def test_what_is_transparent_is_white(tmp_path, name, codec, pix_fmt):
  frames = np.zeros((3, 48, 64, 4), np.uint8)
  frames[..., 0], frames[:, :24, :, 3] = 255, 255  # Red above; below, red that isn't seen.
  with open_footage(write(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt)) as footage:
    pixels = next(footage.frames).upright()
  assert (pixels[40:, 30] > 250).all() and pixels[4, 30, 0] > 240 and (pixels[4, 30, 1:] < 15).all()


@pytest.mark.parametrize("name, options", [("a.gif", {"disposal": 2}), ("a.png", {}), ("a.webp", {"lossless": True})])
def test_moving_pictures(tmp_path, name, options):
  frames = [Image.new("RGBA", (64, 48), (255, 0, 0, 0)) for _ in range(4)]
  for number, frame in enumerate(frames):
    frame.paste((0, 10 + 60 * number, 0, 255), (0, 0, 8, 8))
  frames[0].save(
      tmp_path / name, save_all=True, append_images=frames[1:], duration=[40, 200, 60, 100], **options)
  with open_footage(tmp_path / name) as footage:
    found = list(footage.frames)
  assert [frame.time for frame in found] == pytest.approx([0, 0.04, 0.24, 0.3])
  assert footage.rate == pytest.approx(10) and not footage.still
  assert [int(frame.upright()[4, 4, 1]) for frame in found] == [10, 70, 130, 190]
  assert all((frame.upright()[20:, 20:] == 255).all() for frame in found)
  with open_footage(tmp_path / name, 0.24) as footage:
    assert len(list(footage.frames)) == 2


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_moving_pictures_are_upright(tmp_path, name):
  exif = Image.Exif()
  exif[0x0112] = 6  # To be turned to the right.
  frames = [Image.new("RGB", (64, 48), (9 * i, 0, 0)) for i in range(3)]
  for frame in frames:
    frame.paste("white", (0, 0, 64, 8))
  frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=40, lossless=True, exif=exif)
  with open_footage(tmp_path / name) as footage:
    for frame in footage.frames:
      assert frame.upright().shape == (64, 48, 3)
      assert frame.upright()[:, 40:].min() == 255 and frame.upright()[:, :40, 1].max() == 0


def test_durations_that_no_browser_believes(tmp_path):
  frames = [Image.new("L", (8, 8), 90 * i) for i in range(3)]
  frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=0)
  with open_footage(tmp_path / "a.gif") as footage:
    assert footage.rate == pytest.approx(10)


def test_a_picture_beside_the_video_is_not_taken_for_it(tmp_path):
  path = tmp_path / "a.mp4"
  with av.open(str(path), "w") as out:
    cover, video = out.add_stream("mjpeg", rate=25), out.add_stream("mpeg4", rate=25)
    cover.width, cover.height, cover.pix_fmt, video.width, video.height = 128, 96, "yuvj420p", 64, 48
    for number, pixels in enumerate(shades(5)):
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      out.mux(video.encode(frame))
      if not number:
        out.mux(cover.encode(frame.reformat(128, 96, "yuvj420p")))
    out.mux(video.encode())
  with open_footage(path) as footage:
    assert len(numbers(footage)) == 5


def paper(transfer, code):
  """Frames of one 10-bit grey, as BT.2020 in high dynamic range."""
  def prepare(stream):
    context = stream.codec_context
    context.colorspace, context.color_trc, context.color_primaries = 9, transfer, 9

  def change(frame):
    frame = frame.reformat(format="yuv420p10le")
    for plane, value in zip(frame.planes, (code, 512, 512), strict=True):
      plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    return frame

  name = {16: "smpte2084", 18: "arib-std-b67"}[transfer]
  return {"codec": "libx265", "pix_fmt": "yuv420p10le", "prepare": prepare, "change": change, "options": {
      "x265-params": f"log-level=none:lossless=1:transfer={name}:colormatrix=bt2020nc:colorprim=bt2020"}}


@pytest.mark.parametrize("transfer, code, low, high", [
    (16, 573, 230, 250), (16, 64, 0, 2), (16, 940, 254, 255), (18, 721, 230, 250), (18, 64, 0, 2)])
def test_high_dynamic_range(tmp_path, transfer, code, low, high):
  with open_footage(write(tmp_path / "a.mkv", shades(2), **paper(transfer, code))) as footage:
    pixels = next(footage.frames).upright()
  assert pixels.min() >= low and pixels.max() <= high and np.ptp(pixels) <= 1


@pytest.mark.parametrize("codec, name, options", [
    ("mpeg2video", "a.ts", {"b": "20M", "g": "5", "flags": "+ildct+ilme", "top": "1"}),
    ("libx264", "a.mp4", {"qp": "2", "x264-params": "tff=1:keyint=5"})])
def test_interlaced_video_has_no_combs(tmp_path, codec, name, options):
  frames = np.zeros((12, 64, 96, 3), np.uint8)
  for moment in range(24):  # A bar that moves, of which each picture has every second line of two moments.
    frames[moment // 2, moment % 2 :: 2, 4 + 3 * moment : 16 + 3 * moment] = 230
  path = write(tmp_path / name, frames, codec=codec, options=options)
  with open_footage(path) as footage:
    found = list(footage.frames)
  assert [frame.time for frame in found] == pytest.approx(np.arange(12) / 25, abs=1e-3)
  for number, frame in enumerate(found):
    pixels = frame.upright()[8:-8, :, 0].astype(int)
    assert np.abs(np.diff(pixels, axis=0)).mean() < 3, number
    assert 8 < np.nonzero(pixels > 128)[1].mean() - 6 * number < 14
  with open_footage(path, 0.2) as footage:
    for frame, expected in zip(footage.frames, found[5:], strict=True):
      assert np.array_equal(frame.upright(), expected.upright())


def test_a_video_that_ends_before_it_says(tmp_path):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (20, 48, 64, 3), np.uint8)
  path = write(tmp_path / "a.mp4", frames, mux={"movflags": "faststart"})
  content = path.read_bytes()
  with av.open(str(path)) as container:
    place = [packet.pos for packet in container.demux(video=0) if packet.size][12]
  with open_footage(content[:place], name="a.mp4") as footage:
    with pytest.raises(CutOff, match="^a.mp4: it ends after 12 of 20 frames"):
      list(footage.frames)
  with open_footage(content) as footage:
    assert len(list(footage.frames)) == 20


def test_notes_in_the_stream_that_can_not_be_parsed_are_no_damage(tmp_path):
  path = write(tmp_path / "a.h264", shades(4), container="h264", options={"qp": "4", "bf": "0"})
  note = bytes((0, 0, 1, 6, 4, 255, 255, 255, 9, 0x80))  # Says that it is longer than it is.
  content = path.read_bytes().replace(bytes((0, 0, 1, 0x41)), note + bytes((0, 0, 1, 0x41)))
  assert len(content) > path.stat().st_size
  with open_footage(content) as footage:
    assert numbers(footage) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "open.mp4", "alt.webm", "a.ts", "program.mpg", "reordered.avi"])
def test_frames_are_counted_and_not_decoded_where_the_file_tells(tmp_path, monkeypatch, name):
  path = write(tmp_path / name, shades(30), **FILES.get(name, {}))
  if name in ("a.mp4", "a.mkv", "open.mp4"):
    monkeypatch.setattr(videos, "images", None)
  assert count_frames(path) == 30


def test_what_is_counted_is_what_is_read(tmp_path):
  cut(write(tmp_path / "a.ts", shades(30), options=OPEN), tmp_path / "a.mkv", 10)
  frames = [Image.new("L", (8, 8), 90 * i) for i in range(3)]
  frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True)
  frames[0].save(tmp_path / "b.png")
  for name in ("a.mkv", "a.png", "b.png"):
    with open_footage(tmp_path / name) as footage:
      assert count_frames(tmp_path / name) == len(list(footage.frames)) > 0


@pytest.mark.parametrize("matrix", ["YCgCo", "bt2020c"])
def test_colours_that_can_not_be_converted_are_named(tmp_path, matrix):
  path = write(tmp_path / "a.mp4", shades(2), options={"x264-params": f"colormatrix={matrix}"})
  with pytest.raises(Unreadable, match="a.mp4: its colours, yuv420p by matrix"), open_footage(path) as footage:
    next(footage.frames)


def test_the_fourth_byte_of_raw_video_in_an_avi_means_nothing(tmp_path):
  frames = np.full((2, 48, 64, 4), (200, 100, 50, 0), np.uint8)
  with open_footage(write(tmp_path / "a.avi", frames, codec="rawvideo", pix_fmt="bgra")) as footage:
    assert next(footage.frames).upright()[0, 0].tolist() == [200, 100, 50]


def test_frames_that_are_too_large(tmp_path, monkeypatch):
  monkeypatch.setattr(limits, "FRAME_PIXELS", 1000)
  frames = [Image.new("L", (40, 40), 90 * i) for i in range(3)]
  frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
  for path in (write(tmp_path / "a.mp4", shades(2)), tmp_path / "a.gif"):
    with pytest.raises(Unreadable, match="larger than FRAME_PIXELS, 1,000"), open_footage(path):
      pass


def test_dv_is_not_taken_for_60000_frames_a_second(tmp_path):
  with open_footage(write(tmp_path / "a.dv", shades(3, 576, 720), codec="dvvideo")) as footage:
    assert footage.rate == 25 and numbers(footage) == [0, 1, 2]


def test_parts_of_what_can_not_be_searched(tmp_path):
  path = write(tmp_path / "a.swf", shades(12), codec="flv", options={"g": "4"})
  with open_footage(path, 0.2, 0.4) as footage:
    assert numbers(footage) == [5, 6, 7, 8, 9]


def test_checksums_of_ffv1_are_looked_at(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
  path = write(tmp_path / "a.mkv", noise, codec="ffv1", options={"level": "3", "slicecrc": "1"})
  content = bytearray(path.read_bytes())
  with open_footage(bytes(content)) as footage:
    assert len(list(footage.frames)) == 3
  content[len(content) // 2] ^= 4
  with pytest.raises(Unreadable, match="frame 1 is damaged: its checksum"), open_footage(bytes(content)) as footage:
    list(footage.frames)
