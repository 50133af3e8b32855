import dataclasses
import hashlib
import socket
import sys

import numpy as np
import pytest

from nova_jax.config import DataConfig
from nova_jax.data.digits import captions, datasets, one_digit

CONFIG = DataConfig(num_records=80, num_frames=6, canvas=20)


def _files(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("prepared")
  return folder, datasets.prepare(folder, CONFIG)


def test_records_are_the_clips(prepared):
  _, sources = prepared
  assert {split: len(source) for split, source in sources.items()} == {"train": 80, "test": 400}
  for split, number in (("train", 0), ("train", 79), ("test", 123)):
    record = sources[split][number]
    clip = one_digit.make_clip(split, number, canvas=20, num_frames=6)
    assert record["video"].dtype == np.uint8 and np.array_equal(record["video"], clip.video)
    assert record["caption"].decode() == clip.caption
    assert (record["digit"], record["source"]) == (clip.digit, clip.source)
    assert captions.DIRECTIONS[record["direction"]] == clip.direction


def test_second_call_writes_nothing(prepared):
  folder, _ = prepared
  before = {path: path.stat().st_mtime_ns for path in _files(folder)}
  datasets.prepare(folder, CONFIG)
  assert {path: path.stat().st_mtime_ns for path in _files(folder)} == before


def test_same_config_same_bytes(prepared, tmp_path):
  folder, _ = prepared
  datasets.prepare(tmp_path, CONFIG)
  digests = [[hashlib.sha256(path.read_bytes()).digest() for path in _files(f) if "array_record" in path.name]
             for f in (folder, tmp_path)]
  assert len(digests[0]) == 2 and digests[0] == digests[1]


def test_sizes_have_folders_of_their_own(prepared):
  folder, _ = prepared
  other = datasets.prepare(folder, dataclasses.replace(CONFIG, num_records=40))
  assert len(other["train"]) == 40 and len(datasets.prepare(folder, CONFIG)["train"]) == 80


def test_quiet(tmp_path, capfd, caplog):
  datasets.prepare(tmp_path, CONFIG)
  assert capfd.readouterr() == (f"drawing 80 clips of digits into {tmp_path}\n", "") and not caplog.records
  datasets.prepare(tmp_path, CONFIG)
  assert capfd.readouterr() == ("", "")


def test_failure_half_way_leaves_nothing_that_is_read(tmp_path, monkeypatch):
  make_clip = one_digit.make_clip

  def fail(split, number, **kwargs):
    if number == 50:
      raise OSError("disk full")
    return make_clip(split, number, **kwargs)

  monkeypatch.setattr(one_digit, "make_clip", fail)
  with pytest.raises(OSError, match="disk full"):
    datasets.prepare(tmp_path, CONFIG)
  monkeypatch.undo()
  assert not _files(tmp_path)
  assert len(datasets.prepare(tmp_path, CONFIG)["train"]) == 80


def test_slower_of_two_writers_reads_what_the_faster_wrote(tmp_path, monkeypatch):
  make_clip = one_digit.make_clip

  def let_another_finish(split, number, **kwargs):
    if (split, number) == ("train", 1):
      monkeypatch.undo()
      datasets.prepare(tmp_path, CONFIG)
    return make_clip(split, number, **kwargs)

  monkeypatch.setattr(one_digit, "make_clip", let_another_finish)
  assert len(datasets.prepare(tmp_path, CONFIG)["train"]) == 80
  assert not [path for path in tmp_path.rglob("*") if "incomplete" in path.name]


def test_needs_neither_tensorflow_nor_network_nor_home(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise RuntimeError("network")

  for name in ("getaddrinfo", "create_connection", "socket"):
    monkeypatch.setattr(socket, name, refuse)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  datasets.prepare(tmp_path / "data", CONFIG)
  assert not (tmp_path / "home").exists()
  assert "tensorflow" not in sys.modules


def test_bad_config_is_named(tmp_path):
  with pytest.raises(ValueError, match="num_records"):
    datasets.prepare(tmp_path, DataConfig(num_records=0))
  with pytest.raises(ValueError, match="canvas"):
    datasets.prepare(tmp_path, DataConfig(canvas=8))
