"""Storage that fails is no fault of items: such a build ends unfinished, and continues to the same bytes."""

import dataclasses
import errno
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from data.cache.begun import begin
from data.cache.footage import Sleeper, shades, write_video
from data.cache.many_kinds import picture

from nova_jax.config import CacheConfig
from nova_jax.data.cache.build import build
from nova_jax.data.cache.clips import failures, workers
from nova_jax.data.cache.clips.failures import Lost, Watch, attempt
from nova_jax.data.cache.clips.preprocess import Clip, Rejected
from nova_jax.data.cache.clips.workers import Workers
from nova_jax.data.cache.items.item import Item, Piece
from nova_jax.data.cache.reports import Rejection, kept_digest
from nova_jax.data.cache.sources import digest_of
from nova_jax.utils import files, limits
from nova_jax.utils.errors import FAILED, RunFailed, UserError, exit_code

CFG = CacheConfig(buckets=((5, 32, 48),), shard_items=4, batch_size=3)
NUM = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A source, and the cache that it makes."""
  folder = tmp_path_factory.mktemp("made")
  (folder / "in").mkdir()
  clip = write_video(folder / "clip.mp4", shades(5)).read_bytes()
  for i in range(NUM):
    (folder / f"in/{i:02}.mp4").write_bytes(clip)
    (folder / f"in/{i:02}.txt").write_text(f"clip {i}", encoding="utf-8")
  build(str(folder / "in"), folder / "out", CFG)
  return folder


@pytest.fixture
def source(made, tmp_path):
  """A copy of the source that may be broken."""
  folder = tmp_path / "in"
  folder.mkdir()
  for path in (made / "in").iterdir():
    (folder / path.name).write_bytes(path.read_bytes())
  return folder


def contents(folder):
  files = (path for path in sorted(folder.rglob("*")) if path.is_file())
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def at(count, act):
  """Return a `progress` that acts once, when so many items are done."""
  acted = []

  def show(done, total, counts):
    if done >= count and not acted:
      acted.append(act())
  return show


def refuse(monkeypatch, number, names=None):
  """Let opening files of the source fail, of all or of those named."""
  whole = Path.open

  def opened(path, *args, **kwargs):
    if path.suffix == ".mp4" if names is None else path.name in names:
      raise OSError(number, os.strerror(number), str(path))
    return whole(path, *args, **kwargs)
  monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("leave_empty", [False, True])
def test_a_source_that_vanishes_ends_the_build_unfinished(made, source, tmp_path, leave_empty):
  def vanish():
    source.rename(tmp_path / "away")
    if leave_empty:  # As a folder is that nothing is mounted on any more.
      source.mkdir()

  with pytest.raises(RunFailed, match="is gone .*still mounted.* the same command continues") as caught:
    build(str(source), tmp_path / "out", CFG, progress=at(6, vanish))
  assert exit_code(caught.value) == FAILED and not (tmp_path / "out/manifest.json").exists()
  if leave_empty:
    source.rmdir()
  (tmp_path / "away").rename(source)
  assert build(str(source), tmp_path / "out", CFG).counts.rejected == 0
  assert contents(tmp_path / "out") == contents(made / "out")


@pytest.mark.parametrize("kind", ["tar", "table"])
def test_files_behind_a_tar_or_a_table_that_vanish(source, tmp_path, kind):
  if kind == "tar":
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
      for path in sorted(source.iterdir()):
        tar.add(path, path.name)
    given, moved = tmp_path / "all.tar", tmp_path / "all.tar"
  else:  # The table itself stays.
    given, moved = write_table(tmp_path, NUM, ()), source
  build(str(given), tmp_path / "whole", CFG)
  with pytest.raises(RunFailed, match="the same command continues"):
    build(str(given), tmp_path / "out", CFG, progress=at(5, lambda: moved.rename(tmp_path / "away")))
  (tmp_path / "away").rename(moved)
  build(str(given), tmp_path / "out", CFG)
  assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_storage_that_refuses_everything(made, source, tmp_path, number):
  with pytest.MonkeyPatch.context() as patch:
    with pytest.raises(RunFailed, match="the same command continues") as caught:
      # In the middle of a part, and two items before the end of one.
      build(str(source), tmp_path / "out", CFG, progress=at(6, lambda: refuse(patch, number)))
  assert os.strerror(number) in str(caught.value) and ("ulimit -n" in str(caught.value)) == (number == errno.EMFILE)
  assert not (tmp_path / "out/manifest.json").exists()
  build(str(source), tmp_path / "out", CFG)
  assert contents(tmp_path / "out") == contents(made / "out")


def test_one_item_that_storage_has_lost_is_rejected_and_tried_again(made, source, tmp_path, monkeypatch):
  with pytest.MonkeyPatch.context() as patch:
    refuse(patch, errno.EIO, {"05.mp4", "11.mp4"})
    manifest = build(str(source), tmp_path / "out", CFG)
    assert manifest.counts.rejected == 2 and manifest == build(str(source), tmp_path / "out", CFG)
  assert "Input/output error" in (tmp_path / "out/rejected.jsonl").read_text(encoding="utf-8")
  build(str(source), tmp_path / "out", CFG, retry_rejected=True)
  assert contents(tmp_path / "out") == contents(made / "out")


def test_an_interrupted_build_tries_again_what_storage_lost(made, source, tmp_path):
  with pytest.MonkeyPatch.context() as patch:
    refuse(patch, errno.EIO, {"05.mp4"})
    for count in (9, 5):
      begin(source, tmp_path / "out", CFG, count)
  build(str(source), tmp_path / "out", CFG)
  assert contents(tmp_path / "out") == contents(made / "out")


def test_a_cache_of_nothing_that_could_be_read_is_not_finished(tmp_path, source):
  for path in sorted(source.iterdir())[4:]:
    path.unlink()
  with pytest.MonkeyPatch.context() as patch:
    refuse(patch, errno.EIO)
    with pytest.raises(RunFailed, match="2 of 2 items were rejected.*2 times: .*Input/output error"):
      build(str(source), tmp_path / "out", CFG)


def write_table(folder, count, missing):
  rows = "".join(f"in/{'none' if i in missing else ''}{i:02}.mp4,clip {i}\n" for i in range(count))
  (folder / "table.csv").write_text("path,caption\n" + rows, encoding="utf-8")
  return str(folder / "table.csv")


def test_files_that_were_never_there_are_faults_of_their_rows(source, tmp_path):
  table = write_table(tmp_path, NUM, range(5, 11))
  manifest = build(table, tmp_path / "out", CFG)
  assert (manifest.counts.cached, manifest.counts.rejected) == (NUM - 6, 6)


def test_paths_that_no_system_has_are_faults_of_their_rows(made, tmp_path):
  (tmp_path / "in").symlink_to(made / "in")
  (tmp_path / "loop").symlink_to("loop")
  rows = ["in/" + "x" * 300, "x/" * 5000, "loop", "in/00.mp4/x", "in/00.mp4", "in/01.mp4"]
  (tmp_path / "table.csv").write_text("path,caption\n" + "".join(f"{row},x\n" for row in rows), encoding="utf-8")
  assert build(str(tmp_path / "table.csv"), tmp_path / "out", CFG).counts.cached == 2


def test_a_large_share_of_rejected_items_ends_the_build_unfinished(source, tmp_path):
  table = write_table(tmp_path, NUM, range(5, 22))
  for _ in range(2):
    with pytest.raises(RunFailed, match=f"17 of {NUM} items were rejected.*17 times: .*--retry_rejected") as caught:
      build(table, tmp_path / "out", CFG)
    assert "\n" not in str(caught.value) and not (tmp_path / "out/manifest.json").exists()
  manifest = build(table, tmp_path / "out", dataclasses.replace(CFG, max_rejected=0.9))
  assert manifest.counts.rejected == 17 and build(table, tmp_path / "out", CFG) == manifest
  assert "max_rejected" not in (tmp_path / "out/manifest.json").read_text(encoding="utf-8")
  table = write_table(tmp_path, NUM, range(NUM // 2))
  assert build(table, tmp_path / "half", CFG).counts.rejected == NUM // 2  # As many as max_rejected allows.
  few = write_table(tmp_path, 9, range(8))
  assert build(few, tmp_path / "few", CFG).counts.rejected == 8


def spoil(source):
  (source / "05.mp4").write_bytes(b"no video")
  (source / "11.txt").unlink()
  (source / "12.mp4").write_bytes(b"")


def mend(source, made):
  for name in ("05.mp4", "11.txt", "12.mp4"):
    (source / name).write_bytes((made / "in" / name).read_bytes())


def test_what_was_rejected_is_tried_again_in_a_finished_cache(made, source, tmp_path):
  spoil(source)
  assert build(str(source), tmp_path / "out", CFG).counts.rejected == 3
  before = contents(tmp_path / "out")
  assert build(str(source), tmp_path / "out", CFG, retry_rejected=True).counts.rejected == 3
  assert contents(tmp_path / "out") == before
  mend(source, made)
  with pytest.raises(ValueError, match="source_digest"):
    build(str(source), tmp_path / "out", CFG)
  build(str(source), tmp_path / "out", CFG, retry_rejected=True)
  assert contents(tmp_path / "out") == contents(made / "out")
  build(str(source), tmp_path / "out", CFG, retry_rejected=True)
  assert contents(tmp_path / "out") == contents(made / "out")


def test_what_was_rejected_is_tried_again_in_an_unfinished_cache(made, source, tmp_path):
  spoil(source)
  begin(source, tmp_path / "out", CFG, 14)
  mend(source, made)
  build(str(source), tmp_path / "out", CFG, retry_rejected=True)
  assert contents(tmp_path / "out") == contents(made / "out")


@pytest.mark.parametrize("finished", [True, False])
def test_hosts_try_again_together_what_was_rejected(made, source, tmp_path, finished):
  spoil(source)
  build(str(source), tmp_path / "out", CFG) if finished else begin(source, tmp_path / "out", CFG, 14)
  mend(source, made)
  seen = []

  def retry(host):
    build(str(source), tmp_path / "out", CFG, host=host, num_hosts=2, retry_rejected=True,
          progress=lambda done, total, counts: seen.append((host, done)))

  with ThreadPoolExecutor(2) as pool:
    list(pool.map(retry, range(2)))
  assert contents(tmp_path / "out") == contents(made / "out")
  built = sum(max([done for host, done in seen if host == which], default=0) for which in range(2))
  assert built == (12 if finished else NUM - 4)  # Of the finished one three parts, of the other all but the first.


def test_each_part_says_what_was_rejected_of_it(source, tmp_path):
  spoil(source)
  begin(source, tmp_path / "out", CFG, 17)
  found = [json.loads((tmp_path / f"out/parts/00000{number}.json").read_text(encoding="utf-8")) for number in range(4)]
  assert [report["counts"]["rejected"] for report in found] == [0, 1, 1, 1]
  assert [[row["source"] for row in report["rejected"]] for report in found] == [[], ["05.mp4"], ["11.mp4"], ["12.mp4"]]


def test_a_file_that_changes_while_a_cache_is_built_is_named(source, tmp_path):
  begin(source, tmp_path / "out", CFG, 6)
  (source / "20.mp4").write_bytes(b"another")
  with pytest.raises(UserError, match=r"20.mp4 had [0-9,]+ bytes when this cache was begun, and has 7"):
    build(str(source), tmp_path / "out", CFG)


@pytest.mark.parametrize("kinds, options", [
    (("short",), {}), (("still",), {}), (("short", "still"), {}),
    ((), {"text_encoder": "words", "text_dim": 4, "text_len": 1})])
def test_counts_are_those_of_a_sound_source_when_items_are_tried_again(made, source, tmp_path, kinds, options):
  if "short" in kinds:  # In the first part, of which nothing is rejected.
    write_video(source / "02.mp4", shades(2))
  if "still" in kinds:
    (source / "01.mp4").write_bytes(picture(7))
  spoil(source)
  cfg = dataclasses.replace(CFG, max_rejected=1.0, **options)
  first = build(str(source), tmp_path / "out", cfg).counts
  mend(source, made)
  again = build(str(source), tmp_path / "out", cfg, retry_rejected=True)
  assert again == build(str(source), tmp_path / "anew", cfg) and bool(again.num_cut) == bool(options)
  assert (first.too_short, first.no_bucket) == ("short" in kinds, "still" in kinds)
  assert contents(tmp_path / "out") == contents(tmp_path / "anew")


@pytest.mark.parametrize("finished", [True, False])
def test_a_source_in_which_more_has_changed_is_refused(source, tmp_path, finished):
  spoil(source)
  if finished:
    build(str(source), tmp_path / "out", CFG)
  else:
    begin(source, tmp_path / "out", CFG, 14)
  before = contents(tmp_path / "out")
  (source / "00.txt").write_text("another", encoding="utf-8")
  with pytest.raises(ValueError, match="more has changed in it than what was rejected"):
    build(str(source), tmp_path / "out", CFG, retry_rejected=True)
  assert contents(tmp_path / "out") == before


def test_names_and_reasons_of_any_size_are_written_in_short(made, tmp_path):
  rows = [{"path": f"in/{i:02}.mp4" if i % 4 else ["x" * 900_000], "caption": "x"} for i in range(12)]
  (tmp_path / "in").symlink_to(made / "in")
  (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
  for retry in (False, True):
    assert build(str(tmp_path / "table.jsonl"), tmp_path / "out", CFG, retry_rejected=retry).counts.rejected == 3
    assert (tmp_path / "out/rejected.jsonl").stat().st_size < 10_000
  item = Item("x" * 900_000, None, {})
  row = Rejection.of(item, Rejected("half a pair: \ud800"))
  assert len(json.dumps(dataclasses.asdict(row)).encode()) < 10_000
  assert kept_digest([(item.name, "a line"), ("y", "another")], [row]) == digest_of(["another"])


def test_a_folder_that_vanishes_is_not_taken_for_other_hosts_at_work(made, source, tmp_path):
  with pytest.raises(RunFailed, match="plan.json was written and is gone: .*still mounted"):
    build(str(source), tmp_path / "out", CFG, progress=at(9, lambda: (tmp_path / "out").rename(tmp_path / "away")))
  for path in (tmp_path / "out").rglob("*.*"):
    path.rename(tmp_path / "away" / path.relative_to(tmp_path / "out"))
  build(str(source), tmp_path / "away", CFG)
  assert contents(tmp_path / "away") == contents(made / "out")


def test_a_report_that_storage_refuses_is_not_one_that_is_missing(source, tmp_path, monkeypatch):
  begin(source, tmp_path / "out", CFG, 14)
  refuse(monkeypatch, errno.EIO, {"000002.json"})
  with pytest.raises(OSError, match="Input/output error") as caught:
    build(str(source), tmp_path / "out", CFG)
  assert exit_code(caught.value) == FAILED


def test_texts_of_any_size_are_rejected_one_by_one(source, tmp_path):
  (source / "03.txt").write_text("x" * 150_000_000, encoding="utf-8")
  (source / "04.txt").write_text("x" * limits.CAPTION_BYTES, encoding="utf-8")
  manifest = build(str(source), tmp_path / "out", CFG)
  assert manifest.counts.rejected == 1 and '"03.mp4"' in (tmp_path / "out/rejected.jsonl").read_text(encoding="utf-8")


def test_a_moment_without_files_is_no_fault_of_an_item(source, monkeypatch):
  item = Item("00.mp4", Piece(source / "00.mp4"), {"caption": "x"})
  outcomes = [Rejected("Too many open files")]
  prepared = failures.prepare
  monkeypatch.setattr(failures, "prepare", lambda *args: outcomes.pop() if outcomes else prepared(*args))
  assert isinstance(attempt(item, CFG, 3), Clip)


def test_a_folder_that_can_not_be_listed_is_gone(source, monkeypatch):
  def refuse_to_list(path):
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

  monkeypatch.setattr(os, "scandir", refuse_to_list)
  with pytest.raises(RunFailed, match="is gone"):
    Watch(source).judge(Item("a", None, {}), Lost(Rejected("broken"), errno.ESTALE, "a: stale"))


def test_items_without_a_word_of_storage_are_not_lost(source):
  watch = Watch(source)
  names = [Item(str(i), None, {}) for i in range(9)]
  lost = Lost(Rejected("broken"), errno.EIO, "x: broken")
  for outcome in (lost, lost, Rejected("other"), lost, lost):
    assert watch.judge(names[0], outcome)[0] == (outcome.rejected if isinstance(outcome, Lost) else outcome)
  with pytest.raises(RunFailed, match="3 items in a row"):
    watch.judge(names[0], lost)


@pytest.mark.slow
def test_an_item_that_takes_for_ever_costs_one_item(source, monkeypatch):
  monkeypatch.setattr(limits, "ITEM_SECONDS", 2)
  good = [Item(name, Piece(source / name), {"caption": "x"}) for name in ("00.mp4", "01.mp4")]
  with Workers(1, CFG, 3) as pool:
    outcomes = list(pool.outcomes([good[0], Item("slow", Sleeper(60), {"caption": "x"}), good[1]]))
  assert [type(outcome) for outcome in outcomes] == [Clip, Rejected, Clip]
  assert "more than 2 seconds" in outcomes[1].reason


def end_at_once():
  os._exit(1)


@pytest.mark.slow  # Starts processes, again and again.
def test_processes_that_do_not_live_are_no_fault_of_items(source, monkeypatch):
  monkeypatch.setattr(workers, "_start_worker", end_at_once)
  with Workers(1, CFG, 3) as pool, pytest.raises(RunFailed, match="end as soon as they start"):
    next(pool.outcomes([Item("00.mp4", Piece(source / "00.mp4"), {"caption": "x"})]))


def test_a_folder_that_cannot_be_written_is_named_before_the_source_is_read(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("", encoding="utf-8")
  with pytest.raises(ValueError, match="--output: .*expected a folder"):
    build("/no/source", tmp_path / "file", CFG)

  def refuse(**_):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
  with pytest.raises(ValueError, match="--output: .*Read-only file system"):
    build("/no/source", tmp_path / "out", CFG)
  assert not (tmp_path / "out").exists()
