"""Pictures, clips and masks of any kind as arrays of the model's size, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from nova_jax import media, sources

RNG = np.random.default_rng(0)


def test_an_array_of_the_right_size_passes_unchanged():
  for channels in (1, 3):
    picture = RNG.integers(0, 256, (8, 6, channels), np.uint8)
    assert np.array_equal(sources.read_picture(picture, (8, 6), channels), picture)
    assert np.array_equal(sources.read_clip(picture[None], (8, 6), channels), picture[None])


def test_pictures_are_scaled_to_cover_and_cut_in_the_middle(tmp_path):
  picture = np.zeros((40, 120, 3), np.uint8)
  picture[:, 40:80] = 200  # The middle third is all that a square keeps.
  Image.fromarray(picture).save(tmp_path / "wide.png")
  for source in (picture, Image.fromarray(picture), tmp_path / "wide.png", str(tmp_path / "wide.png")):
    assert (sources.read_picture(source, (8, 8), 3)[1:-1, 1:-1] >= 190).all()
  assert sources.read_picture(picture, (8, 8), 1).shape == (8, 8, 1)


def test_what_is_transparent_is_black(tmp_path):
  Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save(tmp_path / "clear.png")
  assert not sources.read_picture(tmp_path / "clear.png", (8, 8), 3).any()


def test_sixteen_bits_become_eight(tmp_path):
  picture = RNG.integers(0, 256, (8, 8), np.uint8)
  Image.fromarray(picture * np.uint16(257)).save(tmp_path / "deep.png")
  assert np.array_equal(sources.read_picture(tmp_path / "deep.png", (8, 8), 1)[..., 0], picture)


def test_our_own_files_are_read_back(tmp_path):
  clip = RNG.integers(0, 2, (5, 8, 8, 1), np.uint8) * 200
  media.write_gif(tmp_path / "clip.gif", clip, 4)
  media.write_webp(tmp_path / "clip.webp", clip, 4)
  media.write_mp4(tmp_path / "clip.mp4", clip, 4)
  for name, tolerance in (("clip.gif", 0), ("clip.webp", 0), ("clip.mp4", 12)):
    read = sources.read_clip(tmp_path / name, (8, 8), 1, last=3).astype(int)
    assert read.shape == (3, 8, 8, 1) and np.abs(read - clip[-3:]).max() <= tolerance


def test_masks(tmp_path):
  box = sources.read_mask([2, 1, 8, 4], (8, 8), 3)
  assert box.shape == (3, 8, 8) and box[0, 2:, 1:4].all() and box.sum() == 3 * 18
  Image.fromarray(np.uint8(255 * box[0])).save(tmp_path / "mask.png")
  assert np.array_equal(sources.read_mask(tmp_path / "mask.png", (8, 8), 3), box)
  assert np.array_equal(sources.read_mask(box, (8, 8), 3), box)


@pytest.mark.parametrize("call, message", [
    (lambda path: sources.read_picture(path / "none.png", (8, 8), 3), "none.png does not exist"),
    (lambda path: sources.read_picture(path / "text.png", (8, 8), 3), "text.png is not a picture"),
    (lambda path: sources.read_clip(path / "text.mp4", (8, 8), 3), "can't be read as a video"),
    (lambda path: sources.read_picture(np.zeros((8, 8, 3)), (8, 8), 3), "got float64"),
    (lambda path: sources.read_clip(np.zeros((8, 8, 3), np.uint8), (8, 8), 3), "got shape"),
    (lambda path: sources.read_mask([0, 0, 9, 8], (8, 8), 1), "within a frame of 8 x 8"),
    (lambda path: sources.read_mask(np.zeros((8, 8), bool), (8, 8), 1), "leaves nothing to make"),
    (lambda path: sources.read_mask(np.ones((2, 8, 8), bool), (8, 8), 3), "mask: expected one of 8 x 8 or 3")])
def test_what_is_refused(tmp_path, call, message):
  for name in ("text.png", "text.mp4"):
    (tmp_path / name).write_text("no picture", encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    call(tmp_path)


def test_a_picture_that_says_it_is_huge(tmp_path):
  path = tmp_path / "huge.bmp"
  Image.new("RGB", (8, 8)).save(path)
  data = bytearray(path.read_bytes())
  data[18:26] = (60000).to_bytes(4, "little") * 2  # Width and height.
  path.write_bytes(data)
  with pytest.raises(ValueError, match="huge.bmp can't be read: Image size"):
    sources.read_picture(path, (8, 8), 3)
