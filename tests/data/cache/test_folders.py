"""Everything in a folder is an item, belongs to one or is counted, however names are written and links lead."""

import io
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nova_jax.config import CacheConfig
from nova_jax.data.cache.clips.preprocess import Clip, prepare
from nova_jax.data.cache.sources import open_source
from nova_jax.utils import limits

CFG = CacheConfig(buckets=((1, 32, 32),))


def picture(kind="PNG"):
  content = io.BytesIO()
  Image.new("RGB", (40, 32), "red").save(content, kind)
  return content.getvalue()


PICTURE = picture()


def put(folder, **files):
  """Write files; keys have double underscores for slashes and single ones for dots."""
  for name, content in files.items():
    path = folder / name.replace("__", "/").replace("_", ".")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def became(source, cfg=CFG):
  """Return the caption of each item, or why it is rejected, and the kinds of what is not used."""
  items = open_source(str(source), cfg)
  outcomes = {item.name: prepare(item, cfg, 3) for item in items}
  assert len(outcomes) == len(items)
  texts = {name: got.texts.caption if isinstance(got, Clip) else got.reason for name, got in outcomes.items()}
  return texts, {unused.kind: unused.count for unused in items.unused}


def test_media_are_known_by_content_where_the_ending_says_nothing(tmp_path):
  for kind in ("JPEG", "JPEG2000", "AVIF", "QOI", "TIFF"):
    put(tmp_path, **{f"{kind}_x{kind}": picture(kind), f"{kind}_txt": kind})
  put(tmp_path, noending=PICTURE, noending_txt="none", notes_bin=b"\0" * 2000, README="hello", a_zip=b"PK\3\4...")
  texts, unused = became(tmp_path)
  assert set(texts.values()) == {"JPEG", "JPEG2000", "AVIF", "QOI", "TIFF", "none"} and len(texts) == 6
  assert unused == {"files that are neither media nor captions": 2, "archives that are not tars (unpack them)": 1}


def test_what_is_no_item_is_counted(tmp_path):
  put(tmp_path, a_png=PICTURE, a_txt="a", b_txt="orphan", t_csv="x,y\n", _hidden="", _dir__x_png=PICTURE)
  (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
  (tmp_path / "._a.txt").write_bytes(b"\0\5\x16\7")
  os.mkfifo(tmp_path / "pipe.mp4")
  texts, unused = became(tmp_path)
  assert texts == {"a.png": "a"}
  assert unused == {
      "captions without a clip or picture": 1, "tables without the path of a clip or picture": 1,
      "hidden files and folders": 2, "files that macOS adds (._NAME)": 2, "devices, pipes and sockets": 1}


def test_links(tmp_path):
  put(tmp_path, else__far_png=PICTURE, else__far_txt="far", in__own_png=PICTURE, in__own_txt="own", secret="password")
  source = tmp_path / "in"
  for name, target in {
      "part": tmp_path / "else", "again": tmp_path / "else", "loop": source, "gone.png": "nowhere", "x.dat": "nowhere",
      "near.png": tmp_path / "else/far.png", "near.txt": tmp_path / "else/far.txt", "self.png": "self.png"}.items():
    (source / name).symlink_to(target)
  put(source, spy_png=PICTURE, lost_png=PICTURE)
  (source / "spy.txt").symlink_to(tmp_path / "secret")
  (source / "lost.txt").symlink_to("nowhere")
  texts, unused = became(source)
  assert "password" not in str(texts) and texts.pop("self.png") and texts == {
      "gone.png": "it is a link to nowhere, which does not exist", "own.png": "own", "near.png": "far",
      "again/far.png": "far", "spy.png": "its caption spy.txt is a link that leads out of the source",
      "lost.png": "its caption lost.txt is a link to nowhere, which does not exist"}
  assert unused == {"links to folders that are in the source already": 2, "links that lead nowhere": 1}


def test_a_folder_that_can_not_be_entered_is_named(tmp_path, monkeypatch):
  put(tmp_path, a_png=PICTURE, a_txt="a", closed__b_png=PICTURE)
  scandir = os.scandir

  def closed(path):
    if str(path).endswith("closed"):
      raise PermissionError(13, "Permission denied")
    return scandir(path)

  monkeypatch.setattr(os, "scandir", closed)
  assert became(tmp_path)[0] == {"closed": "the folder can't be read: Permission denied", "a.png": "a"}


def test_files_of_no_known_ending_that_may_not_be_read(tmp_path, monkeypatch):
  put(tmp_path, a_png=PICTURE, a_txt="a", b_dat=PICTURE)
  opened = type(tmp_path).open

  def closed(path, *args, **options):
    if path.name == "b.dat":
      raise PermissionError(13, "Permission denied")
    return opened(path, *args, **options)

  monkeypatch.setattr(type(tmp_path), "open", closed)
  assert became(tmp_path) == ({"a.png": "a"}, {"files that may not be read": 1})


def test_storage_that_fails_is_no_kind_of_file(tmp_path, monkeypatch):
  put(tmp_path, a_dat=PICTURE)

  def fail(path, *args, **options):
    raise OSError(5, "Input/output error", str(path))

  monkeypatch.setattr(type(tmp_path), "open", fail)
  with pytest.raises(OSError, match="Input/output"):
    open_source(str(tmp_path), CFG)


def test_other_forms_of_datasets_are_named(tmp_path):
  put(tmp_path, dataset__info_json="{}", **{"data-0_arrow": b"ARROW1"})
  with pytest.raises(ValueError, match="save_to_disk wrote; write it as tables with to_parquet"):
    open_source(str(tmp_path), CFG)


@pytest.mark.parametrize("name, caption", [
    ("A.PNG", "A.TXT"), ("a.png", "A.Txt"), ("cafe\u0301.png", "caf\u00e9.txt"), ("caf\u00e9.png", "cafe\u0301.txt"),
    ("a.png", "A.PNG.txt")])
def test_captions_of_names_that_are_alike(tmp_path, name, caption):
  (tmp_path / name).write_bytes(PICTURE)
  (tmp_path / caption).write_text("words", encoding="utf-8")
  assert became(tmp_path) == ({name: "words"}, {})


def test_a_caption_of_just_that_name_is_no_others(tmp_path):
  for name in ("A.png", "a.png"):
    (tmp_path / name).write_bytes(PICTURE)
  (tmp_path / "a.txt").write_text("small", encoding="utf-8")
  texts, _ = became(tmp_path)
  assert texts["a.png"] == "small" and texts["A.png"].startswith("no caption")


@pytest.mark.parametrize("note, expected", [
    ('[{"shape": "box"}]', "words"), ('"text"', "words"), ('{"start": "00:00:01.000", "source": "lecture"}', "words"),
    ('{"boxes": "' + "x" * limits.CELL_BYTES + '"}', "words"), ('{"start": 5}', "no frames"),
    ('{"caption": "other", "start": "soon"}', "start: expected seconds"), ('{"start": ', "not JSON"),
    ("[" * 100_000, "nested too deeply"), ('{"start": NaN, "end": null}', "words")])
def test_a_json_file_beside_a_text_file(tmp_path, note, expected):
  put(tmp_path, a_png=PICTURE, a_txt="words", a_json=note)
  items = open_source(str(tmp_path), CFG)
  if expected == "no frames":  # Seconds are meant, whatever else the file is about.
    assert items[0].texts(CFG).start == 5
  else:
    assert expected in became(tmp_path)[0]["a.png"]


@pytest.mark.parametrize("times, expected", [
    ({"start": "00:00:01.500", "end": "1:02,5"}, (1.5, 62.5)), ({"start": "2", "end": "1:00:00"}, (2, 3600)),
    ({"start": float("nan"), "end": None}, (None, None)), ({"start": "nan", "end": ""}, (None, None)),
    ({"start": "00:00:01:12"}, "expected seconds"), ({"start": True}, "expected seconds"),
    ({"start": 10**400}, "expected seconds"), ({"end": -1}, "end: expected seconds")])
def test_times(tmp_path, times, expected):
  put(tmp_path, a_png=PICTURE, a_json=json.dumps({"caption": "x"} | times))
  (item,) = open_source(str(tmp_path), CFG)
  if isinstance(expected, str):
    assert expected in prepare(item, CFG, 3).reason
  else:
    texts = item.texts(CFG)
    assert (texts.start, texts.end) == expected


@pytest.mark.parametrize("content, reason", [
    ("één".encode("utf-16"), "is UTF-16"), ("one\ncafé".encode("latin-1"), "its caption:2 is not UTF-8: byte 4"),
    (b"a\0b", "byte 2 of the line is zero"), (b"x" * (limits.CAPTION_BYTES + 1), "more than 65,536 bytes"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer")])
def test_captions_that_are_none(tmp_path, content, reason):
  put(tmp_path, a_png=PICTURE, a_txt=content)
  assert reason in became(tmp_path)[0]["a.png"]


def test_metadata_of_an_image_folder(tmp_path):
  rows = [
      {"file_name": "train/1.png", "text": "one"}, None, {"file_name": "train/2.png", "text": None},
      {"file_name": "train/3.png", "text": "not read"}, {"file_name": "gone.png", "text": "x"},
      {"file_name": "../1.png", "text": "x"}, {"file_name": "train/1.png", "text": "again"}]
  put(tmp_path, **{f"train__{i}_png": PICTURE for i in (1, 2, 3)}, train__3_txt="beside it", metadata_jsonl="\n".join(
      json.dumps(row) if row else "" for row in rows) + '\n"bare"\n')
  texts, unused = became(tmp_path)
  assert texts.pop("train/2.png").startswith("no caption") and not unused
  assert texts == {
      "train/1.png": "one", "train/3.png": "beside it", "train/1.png#2": "the source has train/1.png before",
      "metadata.jsonl row 5: gone.png": "there is no 'gone.png'",
      "metadata.jsonl row 6: ../1.png": "there is no '../1.png'",
      "metadata.jsonl row 8": "metadata.jsonl:8: expected a JSON object, got str"}


def test_scenes_in_the_metadata_of_a_folder(tmp_path):
  put(tmp_path, a_png=PICTURE, metadata_csv="file_name,text,start,end\na.png,one,0,1\na.png,two,0,2\na.png,three,,\n")
  assert became(tmp_path)[0] == {"a.png": "one", "a.png#2": "two", "a.png#3": "three"}


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_metadata_in_other_tables(tmp_path, end):
  put(tmp_path, sub__1_png=PICTURE, sub__metadata_csv="file_name,caption\n1.png,one\n")
  if end == "parquet":
    (tmp_path / "sub/metadata.csv").unlink()
    pq.write_table(pa.table({"file_name": ["1.png"], "caption": ["one"]}), tmp_path / "sub/metadata.parquet")
  assert became(tmp_path) == ({"sub/1.png": "one"}, {})


def test_folders_of_parquet_and_tables_beside_tars(tmp_path):
  (tmp_path / "data").mkdir()
  for i in range(2):
    pq.write_table(pa.table({"image": [{"bytes": PICTURE, "path": None}], "caption": [f"{i}"]}),
                   tmp_path / f"data/train-{i}.parquet")
  (tmp_path / "data/train-2.parquet").write_bytes(b"PAR1")
  with tarfile.open(tmp_path / "0.tar", "w") as tar:
    for name, content in (("a.png", PICTURE), ("a.txt", b"of a tar")):
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  pq.write_table(pa.table({"image": ["http://x"], "caption": ["x"]}), tmp_path / "0.parquet")
  put(tmp_path, loose_png=PICTURE, loose_txt="loose")
  texts, unused = became(tmp_path, CacheConfig(buckets=CFG.buckets, path_field="image"))
  assert "not Parquet" in texts.pop("data/train-2.parquet") and texts == {
      "0.tar/a.png": "of a tar", "data/train-0.parquet/row 1": "0", "data/train-1.parquet/row 1": "1",
      "loose.png": "loose"}
  assert unused == {"tables without the path of a clip or picture": 1}
