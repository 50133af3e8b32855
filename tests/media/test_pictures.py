"""Pictures become upright RGB on white, whatever they are stored as, at a bounded cost."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nova_jax.media.formats import Unreadable
from nova_jax.media.pictures import read_picture
from nova_jax.utils import limits

UPRIGHT = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("end", ["jpg", "png", "webp", "tiff"])
def test_all_orientations(tmp_path, orientation, end):
  pixels = np.zeros((48, 96, 3), np.uint8)
  pixels[:24, :48] = 255
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(pixels).save(tmp_path / f"a.{end}", exif=exif)
  found = read_picture(tmp_path / f"a.{end}")[..., 0]
  assert found.shape == ((96, 48) if orientation > 4 else (48, 96))
  rows, columns = np.nonzero(found > 128)
  assert (round(rows.mean() / len(found)), round(columns.mean() / found.shape[1])) == UPRIGHT[orientation]


@pytest.mark.parametrize("exif", [
    b"\0\x08\0\x02\x01\x12\0\x03", b"Exif\0\0no TIFF here", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
@pytest.mark.parametrize("end", ["png", "webp", "jpg"])
def test_damaged_notes_of_the_camera_are_passed_over(tmp_path, exif, end):
  Image.new("RGB", (8, 6), "white").save(tmp_path / f"a.{end}", exif=exif)
  assert read_picture(tmp_path / f"a.{end}").shape == (6, 8, 3)


@pytest.mark.parametrize("pixels, end, expected", [
    (np.full((8, 8), 0.5, np.float32), "tiff", 128), (np.full((8, 8), 1.5, np.float32), "tiff", "from 0 to 1"),
    (np.full((8, 8), np.nan, np.float32), "tiff", "from 0 to 1"),
    (np.full((8, 8), 200, np.int32), "tiff", "black and white are not known"),
    (np.full((8, 8), 128 * 257, np.uint16), "tiff", 128), (np.full((8, 8), 128 * 257, np.uint16), "png", 128),
    (np.full((8, 8), 128, np.uint8), "jpg", 128), (np.full((8, 8), True), "png", 255)])
def test_values(tmp_path, pixels, end, expected):
  path = tmp_path / f"a.{end}"
  Image.fromarray(pixels).save(path)
  if isinstance(expected, str):
    with pytest.raises(Unreadable, match=f"a.{end}: .*{expected}"):
      read_picture(path)
  else:
    assert np.unique(read_picture(path)).tolist() == [expected]


def tiff(bits, content, photometric=1, kind=1, samples=1):
  """Return a TIFF of 4 x 4 pixels that Pillow would not write."""
  tags = ((256, 4), (257, 4), (258, bits), (259, 1), (262, photometric), (273, 134), (277, samples), (278, 4),
          (279, len(content)), (339, kind))
  entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
  return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content


@pytest.mark.parametrize("content, expected", [
    (tiff(12, b"\x80\x08\x00" * 8), 127), (tiff(12, b"\xff" * 24), 255),
    (tiff(16, struct.pack("<H", 51400) * 16), 200), (tiff(16, struct.pack("<H", 51400) * 16, photometric=0), 55),
    (tiff(8, bytes([251]) * 16, kind=2), "black and white are not known"),
    (tiff(64, np.full(16, 0.5).tobytes(), kind=3), "a TIFF of a kind that is not read"),
    (tiff(16, bytes(32), photometric=32803), "a TIFF of a kind that is not read")])
def test_values_of_tiffs(content, expected):
  if isinstance(expected, str):
    with pytest.raises(Unreadable, match=f"^a: .*{expected}"):
      read_picture(content, "a")
  else:
    assert np.unique(read_picture(content)).tolist() == [expected]


def test_what_is_transparent_is_white(tmp_path):
  palette = Image.new("P", (8, 8), 1)
  palette.putpalette([0, 0, 0, 255, 0, 0])
  palette.save(tmp_path / "p.png", transparency=1)
  Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "la.png")
  Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "rgba.webp", lossless=True)
  for name in ("p.png", "la.png", "rgba.webp"):
    assert (read_picture(tmp_path / name) == 255).all(), name


def chunk(kind, data):
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("transfer, code", [(16, 148), (18, 191)])  # White paper.
def test_pictures_of_high_dynamic_range(tmp_path, transfer, code):
  Image.new("RGB", (8, 8), (code,) * 3).save(tmp_path / "a.png")
  content = (tmp_path / "a.png").read_bytes()
  assert read_picture(content).max() == code
  place = content.index(b"IDAT") - 4
  content = content[:place] + chunk(b"cICP", bytes((9, transfer, 0, 1))) + content[place:]
  found = read_picture(content)
  assert 230 < found.min() <= found.max() < 250


def test_long_notes_in_a_png_are_passed_over(tmp_path):
  Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
  content = (tmp_path / "a.png").read_bytes()
  place = content.index(b"IDAT") - 4

  def noted(size):
    return content[:place] + chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * size)) + content[place:]

  assert read_picture(noted(2 << 20)).shape == (8, 8, 3)
  with pytest.raises(Unreadable, match="a.png: a text in it is longer than PICTURE_TEXT_BYTES"):
    read_picture(noted(20 << 20), name="a.png")


def png(width, height):
  """A PNG that claims a size, of little content."""
  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [17000, 60000])
def test_too_many_pixels_are_refused_before_they_are_read(side):
  with pytest.raises(Unreadable, match="x.png: .* PICTURE_PIXELS, 256,000,000"):
    read_picture(png(side, side), name="x.png")


@pytest.mark.parametrize("mode, end", [("RGB", "jpg"), ("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("I;16", "png")])
def test_what_is_larger_than_any_frame_is_shrunk(tmp_path, monkeypatch, mode, end):
  monkeypatch.setattr(limits, "FRAME_PIXELS", 64 * 64)
  pixels = np.full((180, 360), 100, np.uint8)
  pixels[:90] = 200
  image = Image.fromarray(pixels * np.uint16(257)) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
  image.save(tmp_path / f"a.{end}")
  found = read_picture(tmp_path / f"a.{end}")
  assert found.shape[1] == 2 * found.shape[0] and found.size <= 3 * 64 * 64
  assert abs(int(found[2, 2, 0]) - 200) < 3 and abs(int(found[-2, -2, 0]) - 100) < 3


@pytest.mark.parametrize("kind, data", [
    (b"VP8X", bytes(4) + 2 * (16383).to_bytes(3, "little")), (b"VP8L", b"/" + ((1 << 28) - 1).to_bytes(4, "little")),
    (b"VP8 ", b"\0\0\0\x9d\x01*" + 2 * (16383).to_bytes(2, "little"))])
def test_a_webp_is_refused_before_its_memory_is_taken(kind, data):
  size = len(data).to_bytes(4, "little")
  with pytest.raises(Unreadable, match="1638[34] x 1638[34] pixels are more than PICTURE_PIXELS"):
    read_picture(b"RIFF" + (len(data) + 12).to_bytes(4, "little") + b"WEBP" + kind + size + data)
