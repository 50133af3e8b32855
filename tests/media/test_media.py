"""Files that a person looks at can be read back."""

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from nova_jax import media
from nova_jax.media import readers, sheets
from nova_jax.utils.files import write_atomically

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


def test_the_same_clip_gives_the_same_bytes(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)
  media.write_mp4(tmp_path / "a.mp4", noise, 30000 / 1001, short_side=1)
  clip = readers.read_clip(tmp_path / "a.mp4", (64, 96), 3)
  written = set()
  for i in range(40):
    beside = [np.zeros(5000 * (i + j), np.uint8) for j in range(10)]  # The encoder's memory lies elsewhere.
    media.write_mp4(tmp_path / "a.mp4", clip, 12.0)
    written.add((tmp_path / "a.mp4").read_bytes())
    del beside
  assert len(written) == 1


def test_odd_sizes_lose_nothing_in_an_mp4(tmp_path):
  for size, written in (((131, 129), (132, 130)), ((1, 1), (2, 2))):
    media.write_mp4(tmp_path / "a.mp4", np.zeros((1, *size, 3), np.uint8), 8.0, short_side=1)
    with av.open(str(tmp_path / "a.mp4")) as container:
      frames = list(container.decode(video=0))
    assert [(frame.height, frame.width) for frame in frames] == [written], "H.264 has even sides"


def test_gif(tmp_path):
  media.write_gif(tmp_path / "a.gif", CLIP, 10.0)
  image = Image.open(tmp_path / "a.gif")
  assert image.n_frames == 4 and image.size == (128, 128) and image.info["duration"] == 100


def read_moving(path):
  """Return frames and how many milliseconds each is shown."""
  with Image.open(path) as image:
    frames = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(image)]
  return np.stack([frame for frame, _ in frames]), [duration for _, duration in frames]


@pytest.mark.parametrize("write", [media.write_gif, media.write_webp])
def test_frames_that_stand_still_are_frames(tmp_path, write):
  noise = np.random.default_rng(0).integers(0, 2, (3, 131, 135, 3), np.uint8) * 255
  clip = np.stack([noise[0]] * 3 + [noise[1]] * 2 + [noise[2]])
  clip[1:3, 77, 55] ^= 255  # A pixel that changes, at an odd place.
  write(tmp_path / "a", clip, 8.0, note="note")
  frames, _ = read_moving(tmp_path / "a")
  assert np.array_equal(frames, clip) and media.read_note(tmp_path / "a") == "note"
  write(tmp_path / "a", np.zeros((5, 16, 16, 1), np.uint8), 8.0)
  assert len(read_moving(tmp_path / "a")[0]) == 5


@pytest.mark.parametrize("fps, gif, webp", [
    (12.0, [80, 80, 90, 80, 80, 90], [83, 83, 84, 83, 83, 84]), (4.0, [250] * 6, [250] * 6),
    (60.0, [20] * 6, [16, 17, 17, 16, 17, 17]), (2000.0, [20] * 6, [11] * 6), (0.1, [10000] * 6, [10000] * 6)])
def test_frames_begin_when_they_should(tmp_path, fps, gif, webp):
  for write, durations in ((media.write_gif, gif), (media.write_webp, webp)):
    write(tmp_path / "a", np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8, 1), fps)
    assert read_moving(tmp_path / "a")[1] == durations


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
  margin = sheets.MARGIN
  assert Image.open(tmp_path / "a.png").height - margin == 2 * (Image.open(one).height - margin)
  media.write_sheet(tmp_path / "c.png", [CLIP], ["o\nne"])
  media.write_sheet(tmp_path / "d.png", [CLIP], ["o ne"])
  assert (tmp_path / "c.png").read_bytes() == (tmp_path / "d.png").read_bytes(), "a caption is one line"


def size_of(path):
  with Image.open(path) as image:
    return image.size


@pytest.mark.slow
def test_a_page_has_a_largest_size(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(sheets.ImageDraw.ImageDraw, "text", lambda self, place, text, **_: drawn.append(text))
  long = np.broadcast_to(np.uint8(9), (600, 480, 768, 3))  # 660 MB, if it were copied.
  media.write_sheet(tmp_path / "long.png", [long], ["a fox"])
  width, height = size_of(tmp_path / "long.png")
  assert sheets.PAGE_WIDTH * 0.95 < width <= sheets.PAGE_WIDTH and 128 < height < 200
  assert drawn == ["[153 of 600 frames] a fox"]
  drawn.clear()
  monkeypatch.setattr(sheets, "PAGE_PIXELS", 8_000_000)
  monkeypatch.setattr(sheets, "PAGE_WIDTH", 10_000)
  media.write_sheet(tmp_path / "many.png", [long[:12]] * 20, ["a fox"] * 20)
  width, height = size_of(tmp_path / "many.png")
  assert sheets.PAGE_PIXELS * 0.8 < width * height <= sheets.PAGE_PIXELS and drawn == ["a fox"] * 20
  drawn.clear()
  media.write_sheet(tmp_path / "more.png", [long[:99]] * 40, ["a fox"] * 40)
  width, height = size_of(tmp_path / "more.png")
  assert width * height <= sheets.PAGE_PIXELS and drawn[-1] == f"… and {41 - len(drawn)} more"
  media.write_stack(tmp_path / "stack.png", [tmp_path / f"{name}.png" for name in ("long", "many", "more")])
  width, height = size_of(tmp_path / "stack.png")
  assert sheets.PAGE_PIXELS * 0.9 < width * height <= sheets.PAGE_PIXELS


def test_frames_left_out_of_a_sheet_lie_evenly(tmp_path, monkeypatch):
  monkeypatch.setattr(sheets, "PAGE_WIDTH", 5 * 132 + 4)
  clip = np.broadcast_to(np.arange(101, dtype=np.uint8)[:, None, None, None], (101, 300, 300, 1))
  media.write_sheet(tmp_path / "a.png", [clip], ["a"])
  with Image.open(tmp_path / "a.png") as sheet:
    assert sheet.size[0] == 5 * 132 + 4
    assert [sheet.getpixel((4 + 132 * i + 60, 60))[0] for i in range(5)] == [0, 25, 50, 75, 100]


def test_captions_are_cut_and_have_all_letters(tmp_path, monkeypatch):
  for caption in ("fox " * 5_000_000, "f" * 20_000_000):
    media.write_sheet(tmp_path / "a.png", [CLIP], [caption])
    assert size_of(tmp_path / "a.png")[0] < sheets.CAPTION_WIDTH + 20
  pixels = {}
  for caption in ("Käse", "Kase", "K\uffffse", "жёлтый", "чёрный", "a\0b", "a\ud800b", "👍", ""):
    media.write_sheet(tmp_path / "a.png", [CLIP], [caption])
    with Image.open(tmp_path / "a.png") as sheet:
      pixels[caption] = sheet.tobytes()
  assert len(set(pixels.values())) == len(pixels), "no letter is a box"
  monkeypatch.setattr(sheets, "_FONTS", ("no such font.ttf",))
  sheets._font.cache_clear()
  media.write_sheet(tmp_path / "a.png", [CLIP], ["жёлтый"])
  sheets._font.cache_clear()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
  path = tmp_path / "a.txt"
  write_atomically(path, "old")

  def fail(draft):
    draft.write_text("half", encoding="utf-8")
    raise OSError("disk full")

  with pytest.raises(OSError):
    write_atomically(path, fail)
  assert path.read_text(encoding="utf-8") == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
