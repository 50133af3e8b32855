"""What a file is, by its content, and what is never opened."""

import errno
import io
import os
import zlib

import numpy as np
import pytest
from media.made import numbers, shades, write
from PIL import Image

from nova_jax.media import formats
from nova_jax.media.footage import open_footage
from nova_jax.media.formats import Unreadable
from nova_jax.media.pictures import read_picture


@pytest.mark.parametrize("name", [
    "chat.gif", "CLIP.MP4", "12:30.mp4", "-i.mp4", "http:a.mp4", "no ending", "a.png", "concat:a|b", "%d.mp4", "a.txt"])
def test_names_mean_nothing(tmp_path, monkeypatch, name):
  write(tmp_path / "made.mp4", shades(3)).rename(tmp_path / name)
  monkeypatch.chdir(tmp_path)
  with open_footage(name) as footage:
    assert numbers(footage) == [0, 1, 2] and not footage.still


def test_a_picture_with_the_ending_of_a_video(tmp_path):
  Image.new("RGB", (8, 8), "white").save(tmp_path / "a.png")
  (tmp_path / "a.png").rename(tmp_path / "a.mp4")
  with open_footage(tmp_path / "a.mp4") as footage:
    assert footage.still and next(footage.frames).upright().min() == 255


def test_bytes_and_open_files_are_as_good_as_paths(tmp_path):
  path = write(tmp_path / "a.mp4", shades(3))
  with path.open("rb") as file:
    for content in (path.read_bytes(), file, str(path)):
      with open_footage(content) as footage:
        assert numbers(footage) == [0, 1, 2]


@pytest.mark.parametrize("content, message", [
    (b"", "the file is empty"),
    (b"This is no video.\n" * 40, "neither a picture nor a video"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "is PostScript"),
    (b"\xc5\xd0\xd3\xc6" + bytes(28) + b"%!PS\n", "is PostScript"),
    (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile.ts\n#EXT-X-ENDLIST\n", "is a playlist"),
    (b"ffconcat version 1.0\nfile 'a.mp4'\n", "is a playlist"),
    (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", "is a playlist"),
    (b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>', "is a playlist"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
    (b"<!DOCTYPE html><html></html>", "is a web page"),
    (b"%PDF-1.7\n", "is a PDF"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "is a HEIC picture"),
    (b"\x89PNG\r\n\x1a\nbroken" + bytes(64), "is a damaged picture")])
def test_what_is_refused_by_name(tmp_path, content, message):
  path = tmp_path / "a.png"
  path.write_bytes(content)
  with pytest.raises(Unreadable) as caught, open_footage(path):
    pass
  assert message in str(caught.value) and str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_no_program_is_started(tmp_path, monkeypatch):
  program = tmp_path / "gs"
  program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n", encoding="utf-8")
  program.chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
  (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
  with pytest.raises(Unreadable), open_footage(tmp_path / "a.png"):
    pass
  assert not (tmp_path / "started").exists()


def test_only_regular_files_are_read(tmp_path):
  os.mkfifo(tmp_path / "pipe.mp4")
  for path in (tmp_path / "pipe.mp4", "/dev/zero", tmp_path):
    with pytest.raises(ValueError, match="neither a file|is a folder"), open_footage(path):
      pass
  for path, message in ((f"{tmp_path}//./none.mp4", "^[^:]*/none.mp4 does not exist$"), ("a\0", r"^'a\\x00' is not")):
    with pytest.raises(ValueError, match=message), open_footage(path):
      pass


def test_whatever_a_library_raises_names_the_file():
  for error in (SyntaxError("bad"), EOFError(), KeyError("x"), MemoryError(), OSError("cut\noff"), ZeroDivisionError()):
    with pytest.raises(Unreadable, match="^a.png: ") as caught, formats.reading("a.png"):
      raise error
    assert "\n" not in str(caught.value)
  with pytest.raises(OSError, match="No space"), formats.reading("a.png"):
    raise OSError(28, "No space left on device")


def test_half_of_each_kind_ends_in_one_line(tmp_path):
  rng = np.random.default_rng(0)
  noise = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(3)]
  for name in ("a.gif", "a.webp", "a.png", "a.tiff", "a.jpg", "a.avif", "a.bmp"):
    moves = name in ("a.gif", "a.webp", "a.png")
    noise[0].save(tmp_path / name, **({"save_all": True, "append_images": noise[1:]} if moves else {}))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(Unreadable, match=name) as caught, open_footage(tmp_path / name) as footage:
      list(footage.frames)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.mkv", "a.png", "a.gif"])
def test_storage_that_fails_is_no_fault_of_the_file(tmp_path, name):
  noise = np.random.default_rng(0).integers(0, 256, (3, 400, 400, 3), np.uint8)
  if name == "a.mkv":
    write(tmp_path / name, noise, codec="ffv1")
  else:
    frames = [Image.fromarray(frame) for frame in noise]
    frames[0].save(tmp_path / name, **({"save_all": True, "append_images": frames[1:]} if name == "a.gif" else {}))

  class Failing(io.BytesIO):
    def read(self, size=-1):
      if self.tell() > len(self.getvalue()) // 2 or size < 0:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
      return super().read(size)

  with pytest.raises(OSError, match="Input/output error") as caught:
    with open_footage(Failing((tmp_path / name).read_bytes())) as footage:
      list(footage.frames)
  assert not isinstance(caught.value, Unreadable) and caught.value.errno == errno.EIO


def test_an_animation_that_claims_more_frames_than_it_has(tmp_path):
  frames = [Image.new("L", (8, 8), 90 * i) for i in range(3)]
  frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
  content = bytearray((tmp_path / "a.png").read_bytes())
  place = content.index(b"acTL")
  content[place + 4 : place + 8] = (2**31 - 1).to_bytes(4)
  content[place + 12 : place + 16] = zlib.crc32(content[place : place + 12]).to_bytes(4)
  with pytest.raises(Unreadable, match="it ends after 3 of 2147483647 frames"), open_footage(bytes(content)):
    pass


@pytest.mark.parametrize("moves", [False, True])
def test_a_bit_that_flips_in_a_png(tmp_path, moves):
  rng = np.random.default_rng(0)
  frames = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(1 + moves)]
  frames[0].save(tmp_path / "a.png", **({"save_all": True, "append_images": frames[1:]} if moves else {}))
  content = bytearray((tmp_path / "a.png").read_bytes())
  content[-600] ^= 1
  with pytest.raises(Unreadable, match="checksum of its pixels"), open_footage(bytes(content)) as footage:
    list(footage.frames)


def test_a_recording_that_was_broken_off(tmp_path):
  content = write(tmp_path / "a.mp4", shades(3)).read_bytes()
  content = content[: content.index(b"moov") - 4]
  with pytest.raises(Unreadable, match="MP4 or MOV without its index"), open_footage(content):
    pass


@pytest.mark.parametrize("content, message", [
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "is a HEIC picture"), (b"%PDF-1.7\n", "is a PDF"),
    (b"\0\0\0\x18ftypisom" + bytes(64), "not a picture but a video"), (b"some text", "not a picture of a known kind")])
def test_what_is_no_picture_is_named(content, message):
  with pytest.raises(Unreadable, match=f"^a: .*{message}"):
    read_picture(content, "a")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_frames_end_without_a_word_when_the_interpreter_has_ended(tmp_path, monkeypatch):
  with open_footage(write(tmp_path / "a.mp4", shades(3))) as footage:
    next(footage.frames)
    monkeypatch.setattr(formats, "av", None)  # As Python leaves the names of a module at its exit.
    footage.frames.close()
