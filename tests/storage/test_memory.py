"""Paths of any kind of bucket, by the one that is this process's memory."""

import errno
import pickle

import pytest

from nova_jax import storage
from nova_jax.checkpoints.arrays import open_arrays
from nova_jax.checkpoints.store import Checkpointer
from nova_jax.data.cache.records import ShardReader
from nova_jax.storage import as_path
from nova_jax.utils import files
from nova_jax.utils.errors import UserError


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
    (folder / "a").open("w")


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
