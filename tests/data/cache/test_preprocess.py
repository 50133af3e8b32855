"""Which frames become a clip, how they are fitted, and what is refused."""

import dataclasses

import av
import numpy as np
import pytest
from data.cache.footage import CLIPS, SHADE, STILLS, rotate, shades, write_sound, write_video
from media.made import write
from PIL import Image

from nova_jax.config import CacheConfig
from nova_jax.data.cache.clips.decode import open_footage
from nova_jax.data.cache.clips.preprocess import Clip, Rejected, Skipped, nearest, prepare
from nova_jax.data.cache.items.item import Item, Piece

CFG = CacheConfig(buckets=((5, 48, 64), (1, 32, 32)))


def take(path, cfg=CFG, channels=3, **fields):
  return prepare(Item(path.name, Piece(path), {"caption": "what it shows", **fields}), cfg, channels)


def numbers(clip):
  """Which frames of `shades` a clip has."""
  assert isinstance(clip, Clip), clip
  return [round(float(frame.mean()) / SHADE) for frame in clip.pixels]


def cover(image, height, width, stretch=1.0):
  """Resize and crop in another library."""
  seen = image.width * stretch
  scale = max(height / image.height, width / seen)
  image = image.resize((round(seen * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
  left, top = (image.width - width) // 2, (image.height - height) // 2
  return np.asarray(image.crop((left, top, left + width, top + height)), np.float32)


@pytest.mark.parametrize("name", sorted(CLIPS))
def test_real_clips_are_what_a_plain_decoder_gives(name):
  clip = take(CLIPS[name], CacheConfig(buckets=((5, 64, 80),), stride=3))
  with av.open(str(CLIPS[name])) as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:15:3]
    rate = float(container.streams.video[0].average_rate)
    stretch = float(container.streams.video[0].sample_aspect_ratio)  # 128 / 117 in one of them.
  for pixels, frame in zip(clip.pixels, frames, strict=True):
    assert np.abs(pixels - cover(Image.fromarray(frame), 64, 80, stretch)).mean() < 4
  assert clip.fps == pytest.approx(rate / 3) and clip.motion_flow > 0


@pytest.mark.parametrize("name", sorted(STILLS))
def test_real_stills(name):
  clip = take(STILLS[name])
  assert clip.bucket == (1, 32, 32) and clip.pixels.shape == (1, 32, 32, 3)
  assert clip.fps is None and clip.motion_flow is None
  expected = Image.open(STILLS[name]).convert("RGBA")
  expected = Image.alpha_composite(Image.new("RGBA", expected.size, "white"), expected).convert("RGB")
  assert np.abs(clip.pixels[0] - cover(expected, 32, 32)).mean() < 4


@pytest.mark.parametrize("fps, stride, expected, rate", [
    (0.0, 1, [0, 1, 2, 3, 4], 25), (0.0, 3, [0, 3, 6, 9, 12], 25 / 3), (25.0, 2, [0, 2, 4, 6, 8], 12.5),
    (12.5, 1, [0, 2, 4, 6, 8], 12.5), (50.0, 1, [0, 0, 1, 1, 2], 50), (10.0, 1, [0, 2, 5, 7, 10], 10)])
def test_frames_are_chosen_by_fps_and_stride(tmp_path, fps, stride, expected, rate):
  clip = take(write_video(tmp_path / "a.mp4", shades(15)), dataclasses.replace(CFG, fps=fps, stride=stride))
  assert numbers(clip) == expected and clip.fps == pytest.approx(rate)


def test_times_count_where_the_frame_rate_varies(tmp_path):
  path = write_video(tmp_path / "a.mkv", shades(6), times=[0, 40, 400, 440, 480, 800])
  clip = take(path, dataclasses.replace(CFG, fps=5.0))  # At 0, 200, 400, 600 and 800 ms.
  assert numbers(clip) == [0, 1, 2, 4, 5]
  assert numbers(take(path)) == [0, 1, 2, 3, 4]


def test_a_scene_of_a_longer_video(tmp_path):
  path = write_video(tmp_path / "a.mp4", shades(15))
  assert numbers(take(path, start=0.2)) == [5, 6, 7, 8, 9]
  assert numbers(take(path, start="0.2", end=0.4)) == [5, 6, 7, 8, 9]
  assert take(path, start=0.2, end=0.36) == Skipped("too_short")
  assert "no frames" in take(path, start=9.0).reason
  assert "got 'soon'" in take(path, start="soon").reason


def test_the_last_frame_is_shown_as_long_as_the_others(tmp_path):
  path = write_video(tmp_path / "a.mp4", shades(5))  # 200 ms.
  assert numbers(take(path, dataclasses.replace(CFG, fps=25.0))) == [0, 1, 2, 3, 4]
  assert take(path, dataclasses.replace(CFG, fps=24.0)).bucket[0] == 5  # The fifth at 167 ms.
  assert take(path, dataclasses.replace(CFG, fps=20.0)) == Skipped("too_short")  # At 200 ms there is none.


@pytest.mark.parametrize("turns", range(4))
def test_the_rotation_flag_is_honoured(tmp_path, turns):
  frames = np.zeros((5, 48, 96, 3), np.uint8)
  frames[:, :24, :48] = 255  # Bright in the upper left corner.
  path = rotate(write_video(tmp_path / "a.mp4", frames), turns)
  clip = take(path, CacheConfig(buckets=((5, 24, 48), (5, 48, 24))))
  assert clip.bucket == ((5, 48, 24) if turns % 2 else (5, 24, 48))
  expected = np.rot90(frames[0, ::2, ::2, 0], -turns)
  assert np.abs(clip.pixels[2, ..., 0] - expected.astype(float)).mean() < 8


def test_exif_orientation_of_stills(tmp_path):
  pixels = np.zeros((40, 80, 3), np.uint8)
  pixels[:, :40] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # Turn to the right.
  Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
  clip = take(tmp_path / "a.jpg", CacheConfig(buckets=((1, 32, 16), (1, 16, 32))))
  assert clip.bucket == (1, 32, 16)
  assert clip.pixels[0, :12].mean() > 240 and clip.pixels[0, 20:].mean() < 15


def test_pixels_that_are_not_square(tmp_path):
  path = write_video(tmp_path / "a.mp4", shades(5, 48, 48), stretch=2)
  assert take(path, CacheConfig(buckets=((5, 32, 32), (5, 32, 64)))).bucket == (5, 32, 64)


def test_ten_bits_transparency_sixteen_bits_and_grey(tmp_path):
  assert numbers(take(write_video(tmp_path / "a.mp4", shades(5), pix_fmt="yuv420p10le"))) == [0, 1, 2, 3, 4]
  Image.fromarray(np.zeros((40, 40, 4), np.uint8)).save(tmp_path / "a.png")
  assert take(tmp_path / "a.png").pixels.min() == 255  # White shows through.
  Image.fromarray(np.full((40, 40), 32896, np.uint16)).save(tmp_path / "b.png")
  assert np.unique(take(tmp_path / "b.png").pixels).tolist() == [128]
  grey = take(STILLS["astronaut.png"], channels=1).pixels
  colour = take(STILLS["astronaut.png"]).pixels.astype(float)
  np.testing.assert_allclose(grey[..., 0], colour @ (0.299, 0.587, 0.114), atol=1)


def test_the_longest_bucket_that_a_scene_fills(tmp_path):
  cfg = CacheConfig(buckets=((3, 32, 32), (5, 48, 64), (9, 64, 48)))
  for count, expected in ((2, None), (3, (3, 32, 32)), (4, (3, 32, 32)), (5, (5, 48, 64)), (9, (9, 64, 48))):
    found = take(write_video(tmp_path / "a.mp4", shades(count)), cfg)
    assert found == Skipped("too_short") if expected is None else found.bucket == expected
    assert expected is None or numbers(found) == list(range(expected[0]))
  assert take(STILLS["moon.png"], cfg) == Skipped("no_bucket")
  assert numbers(take(write_video(tmp_path / "a.mp4", shades(4)), CacheConfig(buckets=((1, 32, 32),)))) == [0]


def test_nearest_in_shape_then_in_size():
  buckets = [(1, 32, 32), (1, 32, 64), (1, 64, 128), (1, 64, 32)]
  for shape, expected in (((50, 52), 0), ((32, 70), 1), ((90, 200), 2), ((1000, 20), 3), ((36, 36), 0)):
    assert nearest(shape, buckets) == buckets[expected]


def test_what_can_not_be_used_says_why(tmp_path):
  Image.new("RGB", (4000, 2)).save(tmp_path / "thin.png")
  for path, reason in ((tmp_path / "thin.png", "too far from"), (tmp_path / "none.mp4", "No such file"),
                       (write_sound(tmp_path / "a.m4a"), "no video in it, only audio")):
    found = take(path)
    assert isinstance(found, Rejected) and reason in found.reason, found


@pytest.mark.parametrize("share", [0.02, 0.4])
def test_a_truncated_video_counts_as_far_as_it_goes(tmp_path, share):
  whole = tmp_path / "whole.mp4"
  with av.open(str(CLIPS["bikes.mp4"])) as there, av.open(str(whole), "w", options={"movflags": "faststart"}) as here:
    stream = here.add_stream_from_template(there.streams.video[0])
    for packet in there.demux(video=0):
      if packet.dts is not None:
        packet.stream = stream
        here.mux(packet)
  part = tmp_path / "part.mp4"
  part.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
  found = take(part, CacheConfig(buckets=((25, 32, 64),)))
  if share < 0.1:
    assert isinstance(found, Rejected)
  else:
    np.testing.assert_array_equal(found.pixels, take(whole, CacheConfig(buckets=((25, 32, 64),))).pixels)


def test_a_damaged_frame_is_never_concealed(tmp_path):
  content = CLIPS["bikes.mp4"].read_bytes()
  rng = np.random.default_rng(0)
  for _ in range(8):
    damaged = bytearray(content)
    for place in rng.integers(len(content) // 20, len(content) // 2, 20).tolist():
      damaged[place] ^= 255
    (tmp_path / "a.mp4").write_bytes(damaged)
    found = take(tmp_path / "a.mp4", CacheConfig(buckets=((99, 48, 64),)))
    assert isinstance(found, Rejected) and ("decoded" in found.reason or "damaged" in found.reason), found


@pytest.mark.parametrize("fps", [0.0, float("nan"), float("inf"), -1.0])
def test_examples_without_a_rate_that_can_be_used(fps):
  with open_footage({"video": shades(3), "fps": fps}) as footage:
    assert footage.rate is None and [frame.time for frame in footage.frames] == pytest.approx([0, 0.04, 0.08])


def test_one_frame_is_a_still_however_often_fps_repeats_it(tmp_path):
  path = write_video(tmp_path / "a.avi", shades(1), codec="mjpeg", pix_fmt="yuvj420p", rate=1)
  assert take(path).bucket == take(path, dataclasses.replace(CFG, fps=25.0)).bucket == (1, 32, 32)


def test_a_picture_has_no_later_part():
  assert "begins after it" in take(STILLS["moon.png"], start=2.0).reason


def test_part_of_a_file_is_as_good_as_a_file(tmp_path):
  content = write_video(tmp_path / "a.mp4", shades(9)).read_bytes()
  (tmp_path / "a.tar").write_bytes(b"x" * 512 + content + b"y" * 512)
  with open_footage(Piece(tmp_path / "a.tar", 512, len(content)), 0.12) as footage:
    assert [round(float(frame.upright().mean()) / SHADE) for frame in footage.frames] == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("times, fps", [([0, 40, 80, 200, 240, 280, 320, 360, 400], 25), (range(9), None)])
def test_a_rate_that_nothing_was_recorded_at_is_not_told_to_the_model(tmp_path, times, fps):
  clip = take(write(tmp_path / "a.avi", shades(9), codec="mjpeg", pix_fmt="yuvj420p", times=times))  # 1000 a second.
  assert numbers(clip) == [0, 1, 2, 3, 4] and clip.fps == fps
