"""Paths of any kind of bucket, by the one that is this process's memory."""

import dataclasses
import errno
import json
import pickle
import tarfile

import pyarrow
import pytest
from data.cache.begun import begin
from data.cache.footage import CLIPS, STILLS
from pyarrow import parquet
from train import toy_run

from nova_jax import storage
from nova_jax.autoencoders.pixels import PixelAutoencoder
from nova_jax.checkpoints.arrays import open_arrays
from nova_jax.checkpoints.store import Checkpointer
from nova_jax.cli import score
from nova_jax.config import CacheConfig, DataConfig
from nova_jax.data.cache.build import build
from nova_jax.data.cache.records import ShardReader
from nova_jax.data.cache.sources import tables
from nova_jax.data.sources import open_digits
from nova_jax.storage import as_path
from nova_jax.utils import files
from nova_jax.utils.errors import UserError

CACHE = CacheConfig(buckets=((5, 32, 48), (1, 32, 32)), shard_items=2, batch_size=2)

@pytest.fixture
def folder():
  folder = as_path("memory://bucket/test")
  yield folder
  folder.rmtree(missing_ok=True)


def test_files_are_written_found_read_and_removed(folder):
  file = folder / "a/é b.txt"
  assert not file.exists() and not folder.is_dir()
  files.write_atomically(file, "one\ntwo\n")
  (folder / "a/b/c.bin").write_bytes(b"")
  assert str(file) == "memory://bucket/test/a/é b.txt" and pickle.loads(pickle.dumps(file)) == file
  assert file.is_file() and folder.is_dir() and file.stat().st_size == 8 and file.stat().st_mtime
  assert list((folder / "a").iterdir()) == [folder / "a/b", file]
  assert {path.relative_to(folder).as_posix(): path.known_size for path in folder.rglob("*")} == {
      "a/b/c.bin": 0, "a/é b.txt": 8}
  assert [str(path) for path in folder.parents] == ["memory://bucket", "memory://", "/"]
  (folder / "a").rename(folder / "z")
  assert (folder / "z/b/c.bin").is_file() and not file.exists()
  assert storage.local_copy(folder / "z/é b.txt").read_text(encoding="utf-8") == "one\ntwo\n"
  folder.rmtree()
  assert not folder.exists()


def test_an_open_file_is_read_as_one_of_a_disk(folder, tmp_path):
  content = bytes(range(256)) * 9000  # More than is read at once.
  for place in (folder, tmp_path):
    (place / "a").write_bytes(content)
  with (folder / "a").open("rb") as ours, (tmp_path / "a").open("rb") as theirs:
    for act in (lambda file: file.read(10), lambda file: file.seek(-5, 2), lambda file: file.read(10),
                lambda file: file.seek(100), lambda file: file.read(2_000_000), lambda file: file.tell(),
                lambda file: file.read(), lambda file: file.read()):
      assert act(ours) == act(theirs)
  with storage.fetched(folder / "a", 300, 20) as part:
    assert part.read() == content[300:320]
  with pytest.raises(OSError, match="written whole"):
    (folder / "a").open("w", encoding="utf-8")


def test_what_is_missing_is_an_error_like_that_of_a_disk(folder):
  for act in (folder.read_bytes, folder.stat, folder.unlink, lambda: list(folder.iterdir()), lambda: folder.open("rb")):
    with pytest.raises(FileNotFoundError) as error:
      act()
    assert error.value.errno == errno.ENOENT and error.value.filename == str(folder)
  (folder / "a").write_bytes(b"")
  with pytest.raises(IsADirectoryError):
    folder.open("rb")
  with pytest.raises(UserError, match=f"--output: {folder}/a is a file; expected a folder"):
    files.check_folder_writable("output", folder / "a")


def test_runs_and_shards_are_refused_in_one_line(folder):
  (folder / "shard").write_bytes(b"1")
  for act in (lambda: Checkpointer(folder, keep=1), lambda: open_arrays(folder),
              lambda: ShardReader(folder / "shard")):
    with pytest.raises(UserError, match=f"{folder}.*: arrays and shards are read and written on a disk or in a gs://"):
      act()


def test_a_folder_that_was_made_is_empty_when_its_last_object_is_gone(folder):
  made = folder / "made"
  made.mkdir(parents=True)
  (made / "a").write_bytes(b"1")
  (made / "a").unlink()
  assert list(made.iterdir()) == []
  with pytest.raises(FileNotFoundError):
    list((folder / "other").iterdir())


def test_what_leads_out_of_a_folder_is_found_in_the_bucket(folder, tmp_path):
  assert storage.join(folder, "../a.mp4") == folder.parent / "a.mp4"
  assert storage.join(folder, str(tmp_path)) == tmp_path
  assert storage.join(tmp_path, str(folder)) == folder


@pytest.fixture
def source(tmp_path):
  """Makes a folder of clips with captions, a tar, and what is passed over."""
  source = tmp_path / "source"
  (source / "more/.hidden").mkdir(parents=True)
  for path in (*list(CLIPS.values())[:2], STILLS["coffee.png"]):
    (source / path.name).write_bytes(path.read_bytes())
    (source / path.name).with_suffix(".txt").write_text(f"footage of {path.stem}", encoding="utf-8")
  (source / "more/no_caption.png").write_bytes(STILLS["rocket.jpg"].read_bytes())
  (source / "more/.hidden/a.png").write_bytes(b"1")
  (source / "more/notes.md").write_bytes(b"")
  for name, mode in (("a.tar", "w"), ("b.tar.gz", "w:gz")):
    with tarfile.open(source / name, mode) as tar:
      for path in (STILLS["rocket.jpg"], source / "coffee.png", source / "coffee.txt"):
        tar.add(path, path.name)
  return source


def copied(source, target):
  for path in source.rglob("*"):
    if path.is_file():
      (target / path.relative_to(source)).write_bytes(path.read_bytes())
  return target


def written(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_with_tars_is_cached_as_from_a_disk(source, folder, tmp_path):
  local = build(str(source), tmp_path / "cache", CACHE)
  assert local.counts.cached == 5 and local.counts.rejected == 3 and local.unused
  assert build(str(copied(source, folder / "source")), tmp_path / "again", CACHE) == local
  assert written(tmp_path / "again") == written(tmp_path / "cache")
  build(str(folder / "source/a.tar"), tmp_path / "tar", CACHE)
  build(str(source / "a.tar"), tmp_path / "local", CACHE)
  assert written(tmp_path / "tar") == written(tmp_path / "local")


def test_a_caption_that_grows_after_it_was_listed_is_read_to_its_end(source, folder, tmp_path):
  begin(copied(source, folder / "source"), tmp_path / "cache", CACHE, 2)
  caption = "longer than it was " * 9
  for path in list((folder / "source").glob("*.txt")):
    path.write_text(caption, encoding="utf-8")
  manifest = build(str(folder / "source"), tmp_path / "cache", CACHE)
  readers = [ShardReader(tmp_path / "cache" / shard.file) for shard in manifest.shards]
  found = [reader[i].caption for reader in readers for i in range(len(reader))]
  assert found.count(caption.strip()) == 3 and len(found) == 5  # Two lie in tars.


@pytest.mark.parametrize("few", [0, 100])
@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_a_table_is_cached_as_from_a_disk(source, folder, tmp_path, end, few, monkeypatch):
  monkeypatch.setattr(tables, "_FEW", few)
  names = [f"../source/{path.name}" for path in sorted(source.glob("*")) if path.suffix in (".png", ".mp4", ".avi")]
  columns = {"path": [*names, "none.png", "none.mp4", "no.mp4", "gone.mp4"], "caption": ["words"] * (len(names) + 4)}
  (tmp_path / "tables").mkdir()
  table = tmp_path / f"tables/table{end}"
  if end == ".parquet":
    parquet.write_table(pyarrow.table(columns), table)
  else:
    lines = [",".join(columns), *map(",".join, zip(*columns.values(), strict=True))]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
  cfg = dataclasses.replace(CACHE, max_rejected=1.0)
  local = build(str(table), tmp_path / "cache", cfg)
  assert local.counts.cached == len(names) > 0 and local.counts.rejected == 4
  copied(source, folder / "source")
  remote = copied(table.parent, folder / "tables") / table.name
  build(str(remote), tmp_path / "again", cfg)
  assert written(tmp_path / "again") == written(tmp_path / "cache")


def test_a_table_on_a_disk_names_objects_of_a_bucket(source, folder, tmp_path):
  copied(source, folder)
  table = tmp_path / "table.csv"
  table.write_text(f"path,caption\n{folder}/coffee.png,a cup\naz://b/c.png,none\n", encoding="utf-8")
  manifest = build(str(table), tmp_path / "cache", CACHE)
  assert manifest.counts.cached == 1 and manifest.counts.rejected == 1


@pytest.mark.slow
def test_videos_of_a_bucket_are_scored(folder, capsys):
  for name in ("a.mp4", "more/b.mp4"):
    (folder / name).write_bytes(next(iter(CLIPS.values())).read_bytes())
  assert score.COMMAND.execute(
      ["score", "--benchmark=motion", f"--generated={folder}", f"--json={folder}/motion.json"]) == 0
  assert json.loads((folder / "motion.json").read_text(encoding="utf-8"))["videos"] == 2
  (folder / "c.mp4").write_bytes(b"none")
  assert score.COMMAND.execute(["score", "--benchmark=motion", f"--generated={folder}"]) == 2
  assert f"{folder}/c.mp4" in capsys.readouterr().err


def test_digits_of_a_run_in_a_bucket_are_drawn_on_the_machine(folder, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  experiment = toy_run.make_experiment()
  experiment = dataclasses.replace(experiment, data=DataConfig(num_records=4))
  open_digits(experiment, folder, PixelAutoencoder(), None)
  assert list((tmp_path / "nova_jax/data").rglob("*.array_record*")) and not folder.exists()
