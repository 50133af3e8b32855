"""Tars are read by their content, all members are accounted for, and headers that lie cost one line and no memory."""

import gzip
import io
import os
import tarfile

import pytest
from data.cache.test_folders import CFG, PICTURE, became

from nova_jax.data.cache.items.item import Held, held
from nova_jax.data.cache.sources import open_source
from nova_jax.utils import limits

NOISE = bytes(range(1, 256)) * 8
CLIP = (("a.png", PICTURE), ("a.txt", b"words"))


def write(path, members, mode="w"):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, mode) as tar:
    for name, content, *kind in members:
      info = tarfile.TarInfo(name)
      if kind:
        info.type, info.linkname = kind[0], content
        tar.addfile(info)
      else:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
  return path


def header(name, size, kind=tarfile.REGTYPE):
  """A header that says to have so many bytes, however many there may be."""
  content = bytearray(tarfile.TarInfo(name).tobuf())
  content[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
  content[156:157] = kind
  content[148:156] = b" " * 8
  content[148:156] = b"%06o\0 " % sum(content)
  return bytes(content)


@pytest.mark.parametrize("name, mode", [
    ("0.tar", "w:gz"), ("0.tar.gz", "w:gz"), ("0.tgz", "w:gz"), ("0.TAR", "w"), ("part/0.tar", "w"),
    ("0.tar.bz2", "w:bz2"), ("0.tar.xz", "w:xz"), ("0.tar.gz", "w")])
def test_tars_of_any_name_and_packing(tmp_path, name, mode):
  members = (("b.txt", b"b"), *CLIP, ("B.PNG", PICTURE), ("c.jp_", PICTURE), ("c.txt", b"c"), ("README", b"hello"))
  write(tmp_path / name, members, mode)
  texts, unused = became(tmp_path)
  assert texts == {f"{name}/a.png": "words", f"{name}/B.png": "b", f"{name}/c.jp_": "c"}
  assert unused == {"files that are neither media nor captions": 1}


def test_members_of_a_compressed_tar_are_read_once_in_their_order(tmp_path):
  (item,) = open_source(str(write(tmp_path / "0.tgz", CLIP, "w:gz")), CFG)
  read = held(item)
  assert read.media == Held(PICTURE) and read.fields[".txt"] == Held(b"words")
  assert held(read) is read


def test_links_twins_and_what_is_no_file(tmp_path):
  path = write(tmp_path / "0.tar", (
      *CLIP, ("b.png", "a.png", tarfile.LNKTYPE), ("b.txt", "a.txt", tarfile.SYMTYPE),
      ("x/c.png", "../b.png", tarfile.SYMTYPE), ("x/c.txt", b"c"), ("d.png", "/etc/passwd", tarfile.SYMTYPE),
      ("e.png", "e.png", tarfile.LNKTYPE), ("f.png", "", tarfile.FIFOTYPE), ("._a.png", b"\0\5\x16\7"),
      ("__MACOSX/a.png", b"\0\5\x16\7"), ("orphan.txt", b"x"), ("x", "", tarfile.DIRTYPE)))
  texts, unused = became(path)
  assert texts == {
      "0.tar/a.png": "words", "0.tar/b.png": "words", "0.tar/x/c.png": "c",
      "0.tar/d.png": "it is a link to '/etc/passwd', which is not in the tar before it",
      "0.tar/e.png": "it is a link to 'e.png', which is not in the tar before it",
      "0.tar/f.png": "it is neither a file nor a link"}
  assert unused == {"files that macOS adds (._NAME)": 2, "captions without a clip or picture": 1}


@pytest.mark.parametrize("blocks, reason", [
    (header("x", 2**40, b"x"), "a header of 1,099,511,627,776 bytes"), (header("x", 2**40, b"L"), "a header of"),
    (header("b.png", -1024), "'b.png' should have -1,024 bytes"), (header("b.png", 2**62), "'b.png' should have 4,"),
    (header("b.png", 4096) + b"\0" * 512, "'b.png' should have 4,096 bytes"), (NOISE, "byte 2,048 is not a header"),
    (header("x", 0, b"L") * 3000, "too many headers belong to one member")])
def test_headers_that_lie(tmp_path, blocks, reason):
  sound = write(tmp_path / "0.tar", CLIP).read_bytes().rstrip(b"\0")
  (tmp_path / "0.tar").write_bytes(sound + b"\0" * (-len(sound) % 512) + blocks)
  texts, _ = became(tmp_path)
  assert texts["0.tar/a.png"] == "words" and "damaged from here on" in texts["0.tar"] and reason in texts["0.tar"]


def test_tars_one_behind_the_other(tmp_path):
  first, second = (write(tmp_path / name, ((f"{name}.png", PICTURE), (f"{name}.txt", b"x"))) for name in "ab")
  (tmp_path / "in").mkdir()
  (tmp_path / "in/0.tar").write_bytes(first.read_bytes() + second.read_bytes())
  assert list(became(tmp_path / "in")[0]) == ["0.tar/a.png", "0.tar/b.png"]


def test_what_can_not_be_unpacked_is_named(tmp_path):
  members = ("a.txt", b"x"), ("a.png", os.urandom(5000))
  whole = write(tmp_path / "whole/0.tgz", members, "w:gz").read_bytes()
  for name, content in {
      "cut.tgz": whole[:2000], "0.tar.zst": b"\x28\xb5\x2f\xfd" + b"\0" * 40, "empty.tar": b"",
      "lfs.tar": b"version https://git-lfs.github.com/spec/v1\n", "noise.tgz": b"\x1f\x8b\x08" + NOISE}.items():
    (tmp_path / name).write_bytes(content)
  texts, _ = became(tmp_path)
  for name, reason in {
      "cut.tgz": "damaged", "cut.tgz/a.png": "damaged", "0.tar.zst": "zstd", "empty.tar": "empty", "lfs.tar": "LFS",
      "noise.tgz": "damaged"}.items():
    assert reason in texts[name] and str(tmp_path) not in texts[name]


def test_members_that_are_too_large_to_unpack(tmp_path, monkeypatch):
  monkeypatch.setattr(limits, "ROW_BYTES", 1000)
  (tmp_path / "0.tgz").write_bytes(gzip.compress(header("a.png", 1 << 20) + b"\0" * (1 << 20)))
  write(tmp_path / "1.tgz", (("a.txt", b"x"), ("a.png", bytes(2000))), "w:gz")
  assert "2,000 bytes; expected at most 1,000" in became(tmp_path)[0]["1.tgz/a.png"]
