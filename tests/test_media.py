"""Files that a person looks at can be read back."""

import av
import numpy as np
import pytest
from PIL import Image

from nova_jax.media import write as media
from nova_jax.files import write_atomically

CLIP = np.stack([np.full((16, 16, 1), 60 * i, np.uint8) for i in range(4)])


def test_mp4(tmp_path):
  media.write_mp4(tmp_path / "a.mp4", CLIP, 12.0)
  with av.open(str(tmp_path / "a.mp4")) as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
  assert len(frames) == 4 and frames[0].shape == (128, 128, 3)
  assert [abs(int(frame.mean()) - 60 * i) <= 4 for i, frame in enumerate(frames)] == [True] * 4


def test_an_mp4_grows_and_has_its_name_when_it_is_whole(tmp_path):
  clip = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
  with media.growing_mp4(tmp_path / "a.mp4", 8.0) as add:
    for start in range(0, 100, 10):
      add(clip[start : start + 10])
    (path,) = tmp_path.iterdir()
    assert path.name[0] == "." and path.stat().st_size > 1000
  assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
  media.write_mp4(tmp_path / "b.mp4", clip, 8.0)
  assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
  with pytest.raises(ZeroDivisionError), media.growing_mp4(tmp_path / "c.mp4", 8.0) as add:
    add(clip)
    add(1 / 0)
  assert len(list(tmp_path.iterdir())) == 2


def test_odd_sizes_are_cut_to_what_h264_can_do(tmp_path):
  media.write_mp4(tmp_path / "a.mp4", np.zeros((2, 131, 129, 3), np.uint8), 8.0)
  with av.open(str(tmp_path / "a.mp4")) as container:
    assert (container.streams.video[0].height, container.streams.video[0].width) == (130, 128)


def test_gif(tmp_path):
  media.write_gif(tmp_path / "a.gif", CLIP, 10.0)
  image = Image.open(tmp_path / "a.gif")
  assert image.n_frames == 4 and image.size == (128, 128) and image.info["duration"] == 100


def test_tiles_stand_where_they_should():
  clips = [np.full((2, 3, 4, 1), i, np.uint8) for i in range(5)]
  grid = media.tile(clips, 3)
  assert grid.shape == (2, 8, 15, 1)
  assert [int(grid[0, y, x, 0]) for y, x in ((0, 0), (0, 5), (0, 10), (4, 0), (4, 5), (4, 10))] == [0, 1, 2, 3, 4, 96]


def test_png_keeps_pixels_square(tmp_path):
  media.write_png(tmp_path / "a.png", np.arange(256, dtype=np.uint8).reshape(16, 16, 1))
  pixels = np.asarray(Image.open(tmp_path / "a.png"))
  assert np.array_equal(pixels[::8, ::8, 0], np.arange(256).reshape(16, 16))


def test_sheet_has_a_row_for_each_clip(tmp_path):
  media.write_sheet(tmp_path / "a.png", [CLIP, CLIP], ["one", "two"])
  one = tmp_path / "b.png"
  media.write_sheet(one, [CLIP], ["one"])
  margin = media.MARGIN
  assert Image.open(tmp_path / "a.png").height - margin == 2 * (Image.open(one).height - margin)
  media.write_sheet(tmp_path / "c.png", [CLIP], ["o\nne"])
  media.write_sheet(tmp_path / "d.png", [CLIP], ["o ne"])
  assert (tmp_path / "c.png").read_bytes() == (tmp_path / "d.png").read_bytes(), "a caption is one line"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
  path = tmp_path / "a.txt"
  write_atomically(path, "old")

  def fail(draft):
    draft.write_text("half", encoding="utf-8")
    raise OSError("disk full")

  with pytest.raises(OSError):
    write_atomically(path, fail)
  assert path.read_text(encoding="utf-8") == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
