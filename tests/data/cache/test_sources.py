"""Each kind of source gives the same clips and captions, and each of its entries is an item."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.cache.footage import shades, write_video

from nova_jax.config import CacheConfig, DataConfig
from nova_jax.data.cache.clips.preprocess import Clip, prepare
from nova_jax.data.cache.sources import digest, open_source
from nova_jax.data.digits import datasets

CFG = CacheConfig(buckets=((3, 32, 32),))
CAPTIONS = ["one", "two\nlines", "一只猫", ""]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  return [write_video(folder / f"{i}.mp4", shades(4)[i % 2 :]) for i in range(len(CAPTIONS))]


def check(source, cfg=CFG):
  """Prepare all items and see that they are what the fixture wrote."""
  items = open_source(str(source), cfg)
  clips = [prepare(item, cfg, 3) for item in items]
  assert all(isinstance(clip, Clip) for clip in clips), clips
  assert [clip.texts.caption for clip in clips] == CAPTIONS
  assert [round(float(clip.pixels[0].mean()) / 16) for clip in clips] == [0, 1, 0, 1]
  assert len({item.name for item in items}) == len(items)
  return items, clips


def test_folder(videos, tmp_path):
  for i, (video, caption) in enumerate(zip(videos, CAPTIONS, strict=True)):
    (tmp_path / f"{i}.d").mkdir()
    (tmp_path / f"{i}.d/clip.MP4").write_bytes(video.read_bytes())
    if i % 2:
      (tmp_path / f"{i}.d/clip.json").write_text(
          json.dumps({"caption": caption, "short_caption": "short"}), encoding="utf-8")
    else:
      (tmp_path / f"{i}.d/clip.txt").write_text(caption + "\n", encoding="utf-8")
  (tmp_path / "README").write_text("no clip", encoding="utf-8")
  (tmp_path / ".hidden").mkdir()
  (tmp_path / ".hidden/clip.mp4").write_bytes(b"")
  items, clips = check(tmp_path)
  assert [item.name for item in items] == [f"{i}.d/clip.MP4" for i in range(4)]
  assert [clip.texts.short_caption for clip in clips] == [None, "short", None, "short"]


def test_a_caption_of_the_whole_name_comes_first(videos, tmp_path):
  for end in (".mp4", ".mkv"):
    (tmp_path / f"a{end}").write_bytes(videos[0].read_bytes())
  (tmp_path / "a.txt").write_text("both", encoding="utf-8")
  (tmp_path / "a.mkv.txt").write_text("its own", encoding="utf-8")
  clips = [prepare(item, CFG, 3) for item in open_source(str(tmp_path), CFG)]
  assert [clip.texts.caption for clip in clips] == ["its own", "both"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "parquet bytes"])
def test_tables(videos, tmp_path, kind):
  rows = [{"clip": str(video), "words": caption} for video, caption in zip(videos, CAPTIONS, strict=True)]
  path = tmp_path / f"table.{kind.split()[0]}"
  if kind == "csv":
    with path.open("w", newline="", encoding="utf-8-sig") as file:
      csv.writer(file).writerows([rows[0], *(row.values() for row in rows)])
  elif kind == "jsonl":
    path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
  else:
    if "bytes" in kind:
      rows = [{**row, "clip": video.read_bytes()} for row, video in zip(rows, videos, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
  cfg = CacheConfig(buckets=CFG.buckets, path_field="clip", caption_field="words")
  check(path, cfg)
  with pytest.raises(ValueError, match="path_field: .* has no 'path'; it has clip, words"):
    open_source(str(path), CFG)


def test_paths_are_relative_to_the_table_and_rows_may_be_scenes(videos, tmp_path):
  (tmp_path / "a.mp4").write_bytes(videos[0].read_bytes())
  (tmp_path / "t.csv").write_text(
      "path,caption,start,end\na.mp4,all,,\na.mp4,scene,0.04,0.16\na.mp4,end,0.08,\n", encoding="utf-8")
  clips = [prepare(item, CFG, 3) for item in open_source(str(tmp_path / "t.csv"), CFG)]
  assert [round(float(clip.pixels[0].mean()) / 16) for clip in clips[:2]] == [0, 1]
  assert clips[2].reason == "too_short"


def test_bad_rows_are_items_too(tmp_path):
  (tmp_path / "t.jsonl").write_text(
      '{"path": "gone.mp4", "caption": "x"}\n{\n[1]\n{"path": 5, "caption": "x"}\n', encoding="utf-8")
  reasons = [prepare(item, CFG, 3).reason for item in open_source(str(tmp_path / "t.jsonl"), CFG)]
  for reason, expected in zip(reasons, ("No such file", "not JSON", "expected a JSON object", "got 5"), strict=True):
    assert expected in reason


def add(tar, name, content):
  info = tarfile.TarInfo(name)
  info.size = len(content)
  tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("whole", [True, False])
def test_tars(videos, tmp_path, whole):
  for part in range(2):
    with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
      for i in (2 * part, 2 * part + 1):
        if i % 2:
          add(tar, f"x/{i}.json", json.dumps({"caption": CAPTIONS[i]}).encode())
        add(tar, f"x/{i}.mp4", videos[i].read_bytes())
        if i % 2 == 0:
          add(tar, f"x/{i}.txt", CAPTIONS[i].encode())
  if whole:
    items, _ = check(tmp_path)
    assert items[2].name == "1.tar/x/2.mp4"
  else:
    assert [item.name for item in open_source(str(tmp_path / "1.tar"), CFG)] == ["1.tar/x/2.mp4", "1.tar/x/3.mp4"]


def test_damaged_tars_and_names_that_come_twice(videos, tmp_path):
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    for name in ("a.mp4", "a.mp4", "b.mp4", "a.txt"):
      add(tar, name, videos[0].read_bytes() if name.endswith("4") else b"words")
  content = (tmp_path / "a.tar").read_bytes()
  outcomes = {item.name: prepare(item, CFG, 3) for item in open_source(str(tmp_path / "a.tar"), CFG)}
  assert list(outcomes) == ["a.tar/a.mp4", "a.tar/a.mp4#2", "a.tar/b.mp4"]
  assert isinstance(outcomes["a.tar/a.mp4"], Clip)
  assert "before" in outcomes["a.tar/a.mp4#2"].reason and "no caption" in outcomes["a.tar/b.mp4"].reason
  (tmp_path / "a.tar").write_bytes(content[: len(content) // 2])
  last = open_source(str(tmp_path / "a.tar"), CFG)[-1]
  assert last.name == "a.tar" and "damaged" in prepare(last, CFG, 3).reason


def test_tfds(tmp_path):
  datasets.prepare(tmp_path, DataConfig(num_records=3))
  folder = next(tmp_path.rglob("dataset_info.json")).parent
  cfg = CacheConfig(buckets=((4, 16, 16),))
  items = open_source(f"{folder}:test", cfg)
  assert len(items) == 400 and len(open_source(str(folder), cfg)) == 3
  clip = prepare(items[7], cfg, 1)
  record = datasets.prepare(tmp_path, DataConfig(num_records=3))["test"][7]
  np.testing.assert_array_equal(clip.pixels, record["video"])
  assert clip.texts.caption == record["caption"].decode()
  with pytest.raises(ValueError, match="did you mean 'train'"):
    open_source(f"{folder}:trian", cfg)
  with pytest.raises(ValueError, match="did you mean 'caption'"):
    open_source(str(folder), CacheConfig(caption_field="captions"))


OWN = "tensorflow_datasets.core.features"


def features(**classes):
  rows = {name: {"pythonClassName": kind, "text": {}} for name, kind in classes.items()}
  return {"pythonClassName": f"{OWN}.features_dict.FeaturesDict", "featuresDict": {"features": rows}}


@pytest.mark.parametrize("value, name", [
    (features(video="payload.Video"), "dataset_info.json"), *((value, "features.json") for value in (
    features(caption=f"{OWN}.text_feature.Text", video="payload.Video"),
    features(video="sub.payload.Video"), features(video=f"{OWN}.payload.Video"),
    features(video=f"{OWN}.test_feature.X"),
    {"python_class_name": "payload.Video", "text": {}}, {"type": "payload.Video", "content": {}},
    {"type": f"{OWN}.features_dict.FeaturesDict", "content": {"video": {"type": "payload.Video", "content": "{}"}}},
    {"pythonClassName": f"{OWN}.sequence_feature.Sequence", "sequence": {
        "feature": {"pythonClassName": "payload.Video", "text": {}}, "length": "-1"}},
    {"pythonClassName": f"{OWN}.features_dict.FeaturesDict", "jsonFeature": {
        "json": json.dumps({"video": {"type": "payload.Video", "content": {}}})}}))])
def test_tfds_features_that_are_code_are_not_run(tmp_path, monkeypatch, value, name):
  datasets.prepare(tmp_path, DataConfig(num_records=3))
  folder = next(tmp_path.rglob("dataset_info.json")).parent
  held = value if name == "features.json" else json.loads((folder / name).read_bytes()) | {"features": value}
  (folder / name).write_text(json.dumps(held), encoding="utf-8")
  payload = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
  (tmp_path / "sub").mkdir()
  for path in (tmp_path / "payload.py", tmp_path / "sub/__init__.py", tmp_path / "sub/payload.py"):
    path.write_text(payload, encoding="utf-8")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ValueError, match=f"{name} names .*, which is no feature of TFDS itself") as caught:
    open_source(str(folder), CacheConfig())
  assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["[" * 100_000, '{"featuresDict": ', "\udcff"])
def test_tfds_features_that_are_no_json(tmp_path, content):
  datasets.prepare(tmp_path, DataConfig(num_records=3))
  folder = next(tmp_path.rglob("dataset_info.json")).parent
  (folder / "features.json").write_bytes(content.encode("utf-8", "surrogateescape"))
  with pytest.raises(ValueError, match="features.json is not JSON"):
    open_source(str(folder), CacheConfig())


@pytest.mark.parametrize("name, message", [
    ("nothing", "there is no"), ("a.zip", "is none of"), ("empty", "has no videos"), ("a.csv", "has no rows"),
    ("a.parquet", "not Parquet"), ("a.tar", "has no videos")])
def test_what_is_no_source(tmp_path, name, message):
  (tmp_path / "empty").mkdir()
  (tmp_path / "a.zip").write_text("", encoding="utf-8")
  (tmp_path / "a.csv").write_text("path,caption\n", encoding="utf-8")
  (tmp_path / "a.parquet").write_text("no", encoding="utf-8")
  with tarfile.open(tmp_path / "a.tar", "w"):
    pass
  with pytest.raises(ValueError, match=message):
    open_source(str(tmp_path / name), CFG)


def test_the_digest_tells_sources_apart(videos, tmp_path):
  for name in ("a.mp4", "b.mp4"):
    (tmp_path / name).write_bytes(videos[0].read_bytes())
  first = digest(open_source(str(tmp_path), CFG))
  assert digest(open_source(str(tmp_path), CFG)) == first
  (tmp_path / "b.mp4").write_bytes(b"other")
  second = digest(open_source(str(tmp_path), CFG))
  (tmp_path / "b.mp4").rename(tmp_path / "c.mp4")
  assert len({first, second, digest(open_source(str(tmp_path), CFG))}) == 3
