"""Pictures, clips and masks of any kind as arrays of the model's size, and what is refused."""

import contextlib
import dataclasses
import errno
import os
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
from media.made import write
from PIL import Image

from nova_jax import media
from nova_jax.media import footage, pictures, readers
from nova_jax.pipeline.provenance import digest_files, read_provenance
from nova_jax.utils.errors import exit_code

RNG = np.random.default_rng(0)


def test_an_array_of_the_right_size_passes_unchanged():
  for channels in (1, 3):
    picture = RNG.integers(0, 256, (8, 6, channels), np.uint8)
    assert np.array_equal(readers.read_picture(picture, (8, 6), channels), picture)
    assert np.array_equal(readers.read_clip(picture[None], (8, 6), channels), picture[None])


def test_pictures_are_scaled_to_cover_and_cut_in_the_middle(tmp_path):
  picture = np.zeros((40, 120, 3), np.uint8)
  picture[:, 40:80] = 200  # The middle third is all that a square keeps.
  Image.fromarray(picture).save(tmp_path / "wide.png")
  for source in (picture, Image.fromarray(picture), tmp_path / "wide.png", str(tmp_path / "wide.png")):
    assert (readers.read_picture(source, (8, 8), 3)[1:-1, 1:-1] >= 190).all()
  assert readers.read_picture(picture, (8, 8), 1).shape == (8, 8, 1)


def test_what_is_transparent_is_white(tmp_path):
  clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
  clear.save(tmp_path / "clear.png")
  for source in (clear, tmp_path / "clear.png"):
    assert (readers.read_picture(source, (8, 8), 3) == 255).all()


def test_sixteen_bits_become_eight(tmp_path):
  picture = RNG.integers(0, 256, (8, 8), np.uint8)
  Image.fromarray(picture * np.uint16(257)).save(tmp_path / "deep.png")
  assert np.array_equal(readers.read_picture(tmp_path / "deep.png", (8, 8), 1)[..., 0], picture)


def test_our_own_files_are_read_back(tmp_path):
  clip = RNG.integers(0, 2, (5, 8, 8, 1), np.uint8) * 200
  media.write_gif(tmp_path / "clip.gif", clip, 4)
  media.write_webp(tmp_path / "clip.webp", clip, 4)
  media.write_mp4(tmp_path / "clip.mp4", clip, 4)
  for name, tolerance in (("clip.gif", 0), ("clip.webp", 0), ("clip.mp4", 12)):
    read = readers.read_clip(tmp_path / name, (8, 8), 1, last=3).astype(int)
    assert read.shape == (3, 8, 8, 1) and np.abs(read - clip[-3:]).max() <= tolerance


def test_masks(tmp_path):
  box = readers.read_mask([2, 1, 8, 4], (8, 8), 3)
  assert box.shape == (3, 8, 8) and box[0, 2:, 1:4].all() and box.sum() == 3 * 18
  Image.fromarray(np.uint8(255 * box[0])).save(tmp_path / "mask.png")
  assert np.array_equal(readers.read_mask(tmp_path / "mask.png", (8, 8), 3), box)
  assert np.array_equal(readers.read_mask(box, (8, 8), 3), box)


def test_masks_lie_as_they_are_seen(tmp_path):
  mask = np.zeros((8, 8), bool)
  mask[:4, :2] = True
  stored = Image.fromarray(np.uint8(255 * mask)).rotate(90)
  exif = Image.Exif()
  exif[0x112] = 6  # To be turned clockwise.
  stored.save(tmp_path / "turned.png", exif=exif)
  Image.fromarray(np.where(mask, 40000, 20000).astype(np.uint16)).save(tmp_path / "deep.png")
  for name in ("turned.png", "deep.png"):
    assert np.array_equal(readers.read_mask(tmp_path / name, (8, 8), 1)[0], mask), name
  moving = np.stack([mask, ~mask, mask])
  media.write_gif(tmp_path / "moving.gif", np.uint8(255 * moving)[..., None], 4)
  assert np.array_equal(readers.read_mask(tmp_path / "moving.gif", (8, 8), 3), moving)
  with pytest.raises(ValueError, match="mask: expected one of 8 x 8 or 2 of them"):
    readers.read_mask(tmp_path / "moving.gif", (8, 8), 2)


def test_masks_with_transparency_are_what_they_show(tmp_path):
  mask = np.zeros((8, 8), bool)
  mask[2:5, 1:7] = True
  white, black = np.full((8, 8), 255), np.zeros((8, 8))
  for name, value, opacity in (("strokes", white, mask), ("holes", black, ~mask), ("plain", 255 * mask, white)):
    Image.fromarray(np.uint8(np.stack([value, 255 * (opacity > 0)], axis=-1)), "LA").save(tmp_path / f"{name}.png")
    assert np.array_equal(readers.read_mask(tmp_path / f"{name}.png", (8, 8), 1)[0], mask), name
  strokes = np.stack([np.dstack([white] * 3 + [255 * shape]) for shape in (mask, ~mask)]).astype(np.uint8)
  write(tmp_path / "moving.mov", strokes, codec="png", pix_fmt="rgba")
  assert np.array_equal(readers.read_mask(tmp_path / "moving.mov", (8, 8), 2), np.stack([mask, ~mask]))
  both = np.stack([255 * mask, np.pad(white[:, 1:], ((0, 0), (1, 0)))], axis=-1)
  Image.fromarray(np.uint8(both), "LA").save(tmp_path / "both.png")
  with pytest.raises(ValueError, match="mask: .*both.png: it is transparent in parts"):
    readers.read_mask(tmp_path / "both.png", (8, 8), 1)


def write_video(path, frames, rate=12, codec="libx264"):
  with av.open(str(path), "w") as out:
    stream = out.add_stream(codec, rate=rate)
    stream.pix_fmt, stream.height, stream.width = "yuv420p", *frames.shape[1:3]
    for frame in frames:
      out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
    out.mux(stream.encode())


def test_both_ends_of_a_clip_and_its_rate(tmp_path):
  clip = np.broadcast_to(np.arange(0, 240, 24, dtype=np.uint8)[:, None, None, None], (10, 64, 64, 3))
  write_video(tmp_path / "a.mp4", clip, Fraction(30000, 1001))
  media.write_gif(tmp_path / "a.gif", clip, 8)
  for source, fps in ((tmp_path / "a.mp4", 30000 / 1001), (tmp_path / "a.gif", 8), (clip, None)):
    levels = lambda read: (read.frames.mean(axis=(1, 2, 3)) / 24).round().astype(int).tolist()
    whole, first, last = (readers.open_clip(source, (8, 8), 3, **part) for part in ({}, {"first": 3}, {"last": 4}))
    assert levels(whole) == [*range(10)] and not whole.more and whole.fps == (fps and pytest.approx(fps, 0.02))
    assert levels(first) == [0, 1, 2] and first.more and first.fps == whole.fps
    assert levels(last) == [6, 7, 8, 9] and last.before == 6 and not last.more
  assert readers.count_frames(tmp_path / "a.mp4") == readers.count_frames(tmp_path / "a.gif") == 10


def test_the_end_of_a_clip_that_has_less_frames_than_it_says(tmp_path, monkeypatch):
  media.write_mp4(tmp_path / "a.mp4", np.arange(0, 240, 40, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(
      8, 2), 8)
  whole = readers.read_clip(tmp_path / "a.mp4", (8, 8), 1)
  open_footage = footage.open_footage

  @contextlib.contextmanager
  def more(path, **options):
    with open_footage(path, **options) as shown:
      yield dataclasses.replace(shown, num_frames=9)

  monkeypatch.setattr(footage, "open_footage", more)
  assert np.array_equal(readers.read_clip(tmp_path / "a.mp4", (8, 8), 1, last=4), whole[-4:])


def test_frames_are_fitted_as_they_come(tmp_path, monkeypatch):
  write_video(tmp_path / "a.mp4", np.zeros((12, 64, 64, 3), np.uint8))
  images, alive, fit = [], [], readers.scale_to_cover

  def counting(image, *args):
    images.append(weakref.ref(image))
    alive.append(sum(image() is not None for image in images))
    return fit(image, *args)

  monkeypatch.setattr(readers, "scale_to_cover", counting)
  readers.read_clip(tmp_path / "a.mp4", (8, 8), 3)
  assert len(alive) == 12 and max(alive) <= 2


@pytest.mark.parametrize("read", [
    lambda path: readers.read_picture(path, (8, 8), 3), lambda path: readers.read_clip(path, (8, 8), 3),
    lambda path: readers.read_mask(path, (8, 8), 1), readers.count_frames, media.read_note,
    lambda path: read_provenance(path.with_suffix(".safetensors")),
    lambda path: digest_files({"image": str(path)})])
def test_only_files_are_read(tmp_path, read):
  for path in (tmp_path / "pipe.png", tmp_path / "pipe.safetensors"):
    os.mkfifo(path)
  (tmp_path / "zero.png").symlink_to("/dev/zero")
  (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
  (tmp_path / "folder.png").mkdir()
  (tmp_path / "folder.safetensors").mkdir()
  for name, message in (("pipe.png", "neither a file"), ("zero.png", "neither a file"), ("folder.png", "is a folder")):
    with pytest.raises(ValueError, match=message):
      read(tmp_path / name)


@pytest.mark.parametrize("call, message", [
    (lambda path: readers.read_picture(path / "none.png", (8, 8), 3), r"^image: \S+none.png does not exist$"),
    (lambda path: readers.read_mask(path / "text.mp4", (8, 8), 1), "^mask: [^:]*text.mp4: is neither a picture"),
    (lambda path: readers.read_picture(path / "text.png", (8, 8), 3), "image: .*text.png: is not a picture"),
    (lambda path: readers.read_clip(path / "text.mp4", (8, 8), 3), "video: .*text.mp4: is neither a picture"),
    (lambda path: readers.read_picture(np.zeros((8, 8, 3)), (8, 8), 3), "got float64"),
    (lambda path: readers.read_clip(np.zeros((8, 8, 3), np.uint8), (8, 8), 3), "got shape"),
    (lambda path: readers.read_clip([np.zeros((8, 8, 3)), np.zeros((4, 8, 3))], (8, 8), 3), "video: .* one shape"),
    (lambda path: readers.read_picture("https://a.org/a.png", (8, 8), 3), "image: .* exist; addresses are not"),
    (lambda path: readers.read_mask([0, 0, 9, 8], (8, 8), 1), "within a frame of 8 x 8"),
    (lambda path: readers.read_mask(np.zeros((8, 8), bool), (8, 8), 1), "leaves nothing to make"),
    (lambda path: readers.read_mask(np.ones((2, 8, 8), bool), (8, 8), 3), "mask: expected one of 8 x 8 or 3")])
def test_what_is_refused(tmp_path, call, message):
  for name in ("text.png", "text.mp4"):
    (tmp_path / name).write_text("no picture", encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    call(tmp_path)


def test_storage_that_fails_is_named_and_no_fault_of_the_file(tmp_path, monkeypatch):

  def fail(*_, **__):
    raise OSError(errno.EIO, "Input/output error")

  media.write_png(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8))
  monkeypatch.setattr(pictures, "flatten", fail)
  with pytest.raises(OSError, match="a.png") as raised:
    readers.read_picture(tmp_path / "a.png", (8, 8), 3)
  assert exit_code(raised.value) == 1


def test_a_picture_that_says_it_is_huge(tmp_path):
  path = tmp_path / "huge.bmp"
  Image.new("RGB", (8, 8)).save(path)
  data = bytearray(path.read_bytes())
  data[18:26] = (60000).to_bytes(4, "little") * 2  # Width and height.
  path.write_bytes(data)
  with pytest.raises(ValueError, match="image: .*huge.bmp: .*PICTURE_PIXELS"):
    readers.read_picture(path, (8, 8), 3)
