"""Builds into a folder where another one was begun: only the same cache is continued, and a failed start binds nobody.

What hosts do at the same time is played by one that builds while another one is at some point.
"""

import dataclasses
import json

import pytest
from data.cache.begun import begin
from data.cache.many_kinds import digests, picture, tar_of

from nova_jax.config import CacheConfig
from nova_jax.data.cache import claims, finish, reports
from nova_jax.data.cache.build import build
from nova_jax.data.cache.sources import listing
from nova_jax.utils.errors import UserError

CFG = CacheConfig(buckets=((1, 8, 8),), shard_items=3, batch_size=2)
OTHER = dataclasses.replace(CFG, stride=2)


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  for i in range(9):
    (folder / f"{i}.bmp").write_bytes(picture(10 * i))
    (folder / f"{i}.txt").write_text(f"shade {i}", encoding="utf-8")
  return folder


def write_table(path, caption, count=9):
  rows = [{"path": f"in/{i}.bmp", "caption": f"{caption} {i}"} for i in range(count)]
  path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
  return str(path)


def check_same_as_anew(source, output, cfg=CFG, **options):
  """Build to the end, and see that nothing of what was there before shows."""
  build(str(source), output, cfg, **options)
  build(str(source), output.with_name("anew"), cfg)
  assert digests(output) == digests(output.with_name("anew"))


def test_other_settings_do_not_become_those_of_a_cache_without_a_draft(source, tmp_path):
  begin(source, tmp_path / "out", CFG, 5)
  (tmp_path / "out/parts/draft.json").unlink()  # As an older version leaves it.
  with pytest.raises(UserError, match="settings.stride is 1 there, 2 here; give another folder"):
    build(str(source), tmp_path / "out", OTHER)
  check_same_as_anew(source, tmp_path / "out")


def test_a_draft_of_the_version_before_is_continued(source, tmp_path):
  begin(source, tmp_path / "out", CFG, 5)
  draft = tmp_path / "out/parts/draft.json"
  draft.write_text(json.dumps(json.loads(draft.read_text(encoding="utf-8")) | {"source_digest": ""}), encoding="utf-8")
  check_same_as_anew(source, tmp_path / "out")


def test_of_two_settings_that_begin_in_the_same_moment_one_is_refused(source, tmp_path, monkeypatch):
  real = reports._check_begun

  def meanwhile(*args):
    real(*args)
    monkeypatch.setattr(reports, "_check_begun", real)
    begin(source, tmp_path / "out", CFG, 5)

  monkeypatch.setattr(reports, "_check_begun", meanwhile)
  with pytest.raises(UserError, match="settings.stride is 1 there, 2 here"):
    build(str(source), tmp_path / "out", OTHER)
  check_same_as_anew(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["table.jsonl", "other.jsonl"])
def test_the_list_of_one_table_is_not_taken_for_that_of_another(source, tmp_path, name):
  begin(write_table(tmp_path / "table.jsonl", "said"), tmp_path / "out", CFG, 5)
  table = write_table(tmp_path / name, "told")  # Of the same size.
  with pytest.raises(UserError, match="of another source or other settings: source_digest is .*give another folder"):
    build(table, tmp_path / "out", CFG)
  check_same_as_anew(write_table(tmp_path / "table.jsonl", "said"), tmp_path / "out")


def test_the_list_of_one_tar_is_not_taken_for_that_of_another(source, tmp_path):
  for name in ("a.tar", "b.tar"):
    (tmp_path / name).write_bytes(tar_of([(f"{i}{name[0]}.bmp", picture(i)) for i in range(9)]))
  begin(tmp_path / "a.tar", tmp_path / "out", CFG, 5)
  with pytest.raises(UserError, match="of another source"):
    build(str(tmp_path / "b.tar"), tmp_path / "out", CFG)


def test_a_table_that_was_mended_is_tried_again(source, tmp_path):
  table = write_table(tmp_path / "table.jsonl", "said")
  whole = (tmp_path / "table.jsonl").read_text(encoding="utf-8")
  (tmp_path / "table.jsonl").write_text(whole.replace('"said 1"', "null"), encoding="utf-8")
  begin(table, tmp_path / "out", CFG, 5)
  (tmp_path / "table.jsonl").write_text(whole, encoding="utf-8")
  check_same_as_anew(table, tmp_path / "out", retry_rejected=True)


def test_a_table_without_a_column_binds_nobody_to_its_settings(source, tmp_path):
  table = write_table(tmp_path / "table.jsonl", "said")
  with pytest.raises(UserError, match="has no 'file'; it has path, caption"):
    build(table, tmp_path / "out", dataclasses.replace(CFG, path_field="file"))
  check_same_as_anew(table, tmp_path / "out")


def test_a_source_without_clips_is_looked_at_again(tmp_path):
  (tmp_path / "tars").mkdir()
  (tmp_path / "tars/a.tar").write_bytes(tar_of([("notes.md", b"notes")]))
  with pytest.raises(UserError, match="it has files that are neither media nor captions: 1 .a.tar/notes.md"):
    build(str(tmp_path / "tars"), tmp_path / "out", CFG)
  for name in ("a.tar", "b.tar"):
    (tmp_path / "tars" / name).write_bytes(tar_of([("0.bmp", picture(5)), ("0.txt", b"zero")]))
  check_same_as_anew(tmp_path / "tars", tmp_path / "out")


def test_what_an_interrupted_walk_has_listed_is_listed_anew(source, tmp_path, monkeypatch):
  (source / "3.tar").write_bytes(tar_of([("0.bmp", picture(5)), ("0.txt", b"zero")]))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(listing, "_WALK", "no/such/folder\0")
    with pytest.raises(ValueError):
      build(str(source), tmp_path / "out", CFG)
  (source / "4.tar").write_bytes(tar_of([("0.bmp", picture(6)), ("0.txt", b"zero")]))
  check_same_as_anew(source, tmp_path / "out")


def test_a_host_that_others_took_for_dead_leaves_the_cache_as_they_finished_it(source, tmp_path, monkeypatch):
  (source / "4.bmp").write_bytes(b"no picture")
  build(str(source), tmp_path / "expected", CFG)
  monkeypatch.setattr(claims, "LAPSES", -1.0)
  real = finish._check_rejected

  def meanwhile(*args):
    monkeypatch.setattr(finish, "_check_rejected", real)
    build(str(source), tmp_path / "out", CFG)
    real(*args)

  monkeypatch.setattr(finish, "_check_rejected", meanwhile)
  manifest = build(str(source), tmp_path / "out", CFG)
  assert finish._check_rejected is real and manifest.counts.rejected == 1
  assert digests(tmp_path / "out") == digests(tmp_path / "expected")


def test_a_cache_in_its_own_source_is_no_part_of_it(source, tmp_path):
  (source / "notes.md").write_text("notes", encoding="utf-8")
  manifest = build(str(source), tmp_path / "elsewhere", CFG)
  begin(source, source / "more/cache", CFG, 5)
  assert build(str(source), source / "more/cache", CFG) == manifest and len(manifest.unused) == 1
  assert digests(source / "more/cache") == digests(tmp_path / "elsewhere")


def test_a_report_that_vanishes_at_the_end_ends_the_build_unfinished(source, tmp_path, monkeypatch):
  (source / "4.bmp").write_bytes(b"no picture")
  real = finish._check_rejected

  def vanish(*args):
    (tmp_path / "out/parts/000001.json").unlink()
    real(*args)

  with monkeypatch.context() as patch:
    patch.setattr(finish, "_check_rejected", vanish)
    with pytest.raises(FileNotFoundError, match="a report or a shard that was there is gone"):
      build(str(source), tmp_path / "out", CFG)
  assert not (tmp_path / "out/manifest.json").exists()
  check_same_as_anew(source, tmp_path / "out")


def test_nothing_is_tried_again_in_a_folder_of_something_else(source, tmp_path):
  mine = tmp_path / "out/parts/units/mine.txt"
  mine.parent.mkdir(parents=True)
  for path in (mine, tmp_path / "out/mine.txt"):
    path.write_text("mine", encoding="utf-8")
  with pytest.raises(UserError, match="neither empty nor a cache"):
    build(str(source), tmp_path / "out", CFG, retry_rejected=True)
  assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["mine.txt", "mine.txt", "parts", "units"]
