"""Tables as sources: whatever type their texts have, and each row an item or a line that says why not."""

import datetime
import gzip
import json
import os
import re
import struct
import tracemalloc
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.cache.test_folders import CFG, PICTURE, became

from nova_jax.config import CacheConfig
from nova_jax.data.cache.items.item import Held, held
from nova_jax.data.cache.sources import open_source
from nova_jax.media import parquet
from nova_jax.utils import limits


@pytest.fixture
def table(tmp_path):
  (tmp_path / "a.png").write_bytes(PICTURE)

  def write(name="t.parquet", **columns):
    pq.write_table(pa.table(columns), tmp_path / name)
    return tmp_path / name

  return write


@pytest.mark.parametrize("kind", [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string())], ids=str)
def test_texts_of_every_type(table, kind):
  path, caption = (pa.array(values).cast(kind) for values in (["a.png", None, "a.png"], ["x", "y", None]))
  texts, _ = became(table(path=path, caption=caption))
  assert texts["row 1: a.png"] == "x" and texts["row 3: a.png"].startswith("no caption")
  assert texts["row 2"] == "path: expected the path of a file, got None"


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_paths_with_accents(tmp_path, forms):
  on_disk, in_table = (unicodedata.normalize(form, "café.png") for form in forms)
  (tmp_path / on_disk).write_bytes(PICTURE)
  (tmp_path / "t.csv").write_text(f"path,caption\n{in_table},x\n", encoding="utf-8")
  assert became(tmp_path / "t.csv")[0] == {f"row 1: {in_table}": "x"}


def test_media_as_hugging_face_writes_them(table):
  source = table(
      image=[{"bytes": PICTURE, "path": "x"}, {"bytes": None, "path": "a.png"}, {"bytes": None, "path": None}, None],
      caption=["x"] * 4)
  texts, _ = became(source, CacheConfig(buckets=CFG.buckets, path_field="image"))
  assert list(texts.values()) == ["x", "x", *["image: expected bytes, got NoneType"] * 2]


def test_missing_times_and_times_of_other_types(table):
  nan = float("nan")
  items = open_source(str(table(path=["a.png"] * 2, caption=["x"] * 2, start=[nan, 0.5], end=[nan, nan])), CFG)
  assert [(item.texts(CFG).start, item.texts(CFG).end) for item in items] == [(None, None), (0.5, None)]
  times = pa.array([datetime.timedelta(seconds=90)]), pa.array([datetime.time(0, 2, 1, 500_000)])
  (item,) = open_source(str(table(path=["a.png"], caption=["x"], start=times[0], end=times[1])), CFG)
  assert (item.texts(CFG).start, item.texts(CFG).end) == (90, 121.5)


def test_texts_that_are_none(table):
  ends, letters = pa.py_buffer(struct.pack("<3i", 0, 3, 4)), pa.py_buffer(b"caf\xe9")
  broken = pa.Array.from_buffers(pa.string(), 2, [None, ends, letters])
  first, second = became(table(path=["a.png"] * 2, caption=broken))[0].values()
  assert first == "caf" and "not UTF-8" in second
  for column, reason in ((pa.nulls(1), "no caption"), (pa.array([["a"]]), "caption: expected text, got list")):
    assert reason in became(table(path=["a.png"], caption=column))[0]["row 1: a.png"]


def test_long_texts_and_many_rows_cost_little(table, monkeypatch):
  long = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["é" * 10**6, "x"]))
  source = table(path=["a.png"] * 2000, caption=long)
  tracemalloc.start()
  texts, _ = became(source)
  assert tracemalloc.get_traced_memory()[1] < 2e8, "the text is 2 MB, and stands there 2000 times"
  tracemalloc.stop()
  assert len(texts) == 2000 and "expected at most 65,536 (CAPTION_BYTES)" in texts["row 1: a.png"]
  monkeypatch.setattr(limits, "ROWS", 1999)
  with pytest.raises(ValueError, match="t.parquet has 2,000 rows or more; expected at most 1,999"):
    open_source(str(source), CFG)


def test_cells_are_read_in_any_order_and_by_one_process(table, monkeypatch):
  source = table(path=[bytes([i]) * 5000 for i in range(4)], caption=["x"] * 4)
  items = open_source(str(source), CFG)
  for i in (0, 2, 3, 1, 1):
    assert held(items[i]).media == Held(bytes([i]) * 5000)
  opened = []
  monkeypatch.setattr(parquet, "_Reader", lambda *place: opened.append(place))
  with pytest.raises(AttributeError):
    parquet.read_cell(source, 0, 1, "path")
  assert len(opened) == 1, "row 1 was read already, so that reading begins anew"
  parquet._reader = None


def resident():
  """Return the bytes of this process's own memory."""
  return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory is a process's own")
def test_a_page_of_all_rows_is_held_once(tmp_path):
  """A writer puts all clips of a table into one page, which the library copies; the allocator keeps no copy."""
  size = 100_000_000
  clips = pa.table({"path": [os.urandom(size // 25) for _ in range(25)]})
  pq.write_table(clips, tmp_path / "t.parquet", compression="none")
  del clips
  pa.default_memory_pool().release_unused()
  before = resident()
  assert len(parquet.read_cell(tmp_path / "t.parquet", 0, 0, "path")) == size // 25
  assert resident() - before < 1.5 * size
  parquet._reader = None


@pytest.mark.parametrize("name, content, names", [
    ("a.csv", "path,caption\na.png,one, two\na.png,x\n", {
        "row 1: a.png": "a.csv:2: expected 2 cells", "row 2: a.png": "x"}),
    ("a.csv", 'path,caption\na.png,"one\na.png,a screen of 12"\na.png,"lines,\nb.png, too"\n', {
        "row 1: a.png": "a.csv:2: a quote is open over the row of a.png", "row 2: a.png": "lines,\nb.png, too"}),
    ("a.csv", b"path,caption\na.png,caf\xe9\na.png,x\n", {
        "row 1: a.png": "a.csv:2: .*0xe9", "row 2: a.png": "x"}),
    ("a.csv", "path,caption\na.png,%s\na.png,x\n" % ("word " * 40_000), {
        "row 1: a.png": "caption: 200,000 bytes", "row 2: a.png": "x"}),
    ("a.jsonl", '\n"a.png"\n{"path": "a.png", "caption": "x"}\n', {"row 2": "got str", "row 3: a.png": "x"}),
    ("a.jsonl", '{"path": "a.png", "caption": "x", "start": NaN, "end": NaN}', {"row 1: a.png": "x"}),
    ("a.json", json.dumps([{"path": "a.png", "caption": "x"}]), {"row 1: a.png": "x"}),
    ("a.csv", "path,caption\nsub\\b.png,x\nC:\\b.png,x\n", {
        r"row 1: sub\b.png": "x", r"row 2: C:\b.png": "No such file"}),
    ("a.csv", "path,caption\nhttps://a.org/a.png,x\nfile:///a.png,x\n", {
        "row 1: https://a.org/a.png": "addresses are not fetched", "row 2: file:///a.png": "addresses are not"}),
    ("a.csv", "path,caption,start,end\na.png,x,5,2\na.png,x,,0\na.png,x,,2\n", {
        "row 1: a.png": "end after the start, got start 5 and end 2", "row 2: a.png": "end after the start",
        "row 3: a.png": "x"})])
def test_rows_of_text_tables(tmp_path, name, content, names):
  (tmp_path / "sub").mkdir()
  for path in (tmp_path / "a.png", tmp_path / "sub" / "b.png"):
    path.write_bytes(PICTURE)
  (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  texts, _ = became(tmp_path / name)
  assert texts.keys() == names.keys()
  for row, pattern in names.items():
    assert re.search(pattern, texts[row])


def test_backslashes_in_tables_of_captions(tmp_path):
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "a.png").write_bytes(PICTURE)
  (tmp_path / "metadata.csv").write_text("file_name,text\nsub\\a.png,x\n", encoding="utf-8")
  assert became(tmp_path)[0] == {"sub/a.png": "x"}


@pytest.mark.parametrize("name, content, message", [
    ("a.csv", 'path,caption\na.png,"one\na.png,two\n', "a.csv:2: a quote is opened and not closed"),
    ("a.csv", "path, caption\na.png,x\n", "the name ' caption' has spaces"),
    ("a.jsonl", '"bare"\n[1]\n', "a.jsonl:1: expected a JSON object, got str"),
    ("metadata.csv", "file_name,text\na.png,x\n", "give the folder .* as the source"),
    ("a.csv", "path;caption\na.png;x\n", "parted by ';'"),
    ("a.csv", "path,caption,Start\na.png,x,1\n", "'Start' would not be read; did you mean 'start'"),
    ("a.csv", "path,caption\na.png,x\n".encode("utf-16"), "a.csv is UTF-16"),
    ("a.jsonl", '{"path": "a.png", "caption": "x"}\n'.encode("utf-16-le"), "a.jsonl is UTF-16"),
    ("a.csv", b"PK\x03\x04\x14\0\6\0", "an Excel workbook"),
    ("a.csv", gzip.compress(b"path,caption\n", mtime=0), "is compressed"),
    ("a.csv", "\n<!DOCTYPE html><html>", "is a web page"), ("a.jsonl", b"PAR1\x15\4", "is Parquet"),
    ("a.csv", "path,text\n", "has no 'caption'"), ("a.csv", "path,caption\n", "a.csv has no rows"),
    ("a.json", "[]", "a.json has no rows"),
    ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer")])
def test_tables_that_are_refused(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(ValueError, match=message):
    open_source(str(tmp_path / name), CFG)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_pipes_are_no_tables(tmp_path, name):
  os.mkfifo(tmp_path / name)
  with pytest.raises(ValueError, match=f"{name} is neither a file nor a link to one"):
    open_source(str(tmp_path / name), CFG)
