"""Paths in a bucket answer like those of a disk."""

import errno
import threading
import time

import pytest
from storage.fake_bucket import NAME

from nova_jax import storage
from nova_jax.storage import as_path
from nova_jax.utils import files, lease
from nova_jax.utils.errors import UserError

pytestmark = pytest.mark.slow


def test_files_are_written_found_read_and_removed(folder):
  file = folder / "a/é b.txt"
  assert not file.exists() and not folder.is_dir()
  files.write_atomically(file, "one\ntwo\n")
  (folder / "a/b/c.bin").write_bytes(b"")
  assert file.is_file() and folder.is_dir() and not folder.is_file() and not file.is_symlink()
  assert file.stat().st_size == 8 and files.read_bytes(file, 8) == b"one\ntwo\n"
  assert (folder / "a/b/c.bin").read_bytes() == b""
  with file.open(encoding="utf-8") as lines:
    assert list(lines) == ["one\n", "two\n"]
  assert list((folder / "a").iterdir()) == [folder / "a/b", file]
  assert [path.relative_to(folder).as_posix() for path in folder.rglob("*")] == ["a/b/c.bin", "a/é b.txt"]
  assert list(folder.glob("*/*.txt")) == list(folder.glob("**/*.txt")) == [file]
  (folder / "a").rename(folder / "z")
  assert (folder / "z/b/c.bin").is_file() and not file.exists()
  folder.rmtree()
  assert not folder.exists()


def test_what_is_missing_or_not_allowed_is_an_error_like_that_of_a_disk(bucket, folder):
  for act in (folder.read_bytes, folder.stat, folder.unlink, lambda: list(folder.iterdir()), lambda: folder.open("rb")):
    with pytest.raises(FileNotFoundError) as error:
      act()
    assert error.value.errno == errno.ENOENT and error.value.filename == str(folder)
  folder.unlink(missing_ok=True)
  bucket.fail = lambda method, path: 403
  for act in (folder.read_bytes, folder.exists, lambda: folder.write_bytes(b"1"), lambda: list(folder.iterdir()),
              lambda: storage.write_version(folder, b"", 0)):
    with pytest.raises(PermissionError, match="told to answer 403") as error:
      act()
    assert error.value.filename == str(folder)


def test_a_folder_that_can_not_be_written_is_bad_input_in_one_line(bucket, folder):
  with pytest.raises(UserError, match="--output: the folder gs://none/out can't be written to .there is no"):
    files.check_folder_writable("output", "gs://none/out")
  bucket.fail = lambda method, path: 403 if method == "POST" else None
  with pytest.raises(UserError, match=rf"--output: the folder {folder} can't be written to \(no permission"):
    files.check_folder_writable("output", folder)


@pytest.mark.parametrize("status", [429, 503, "away"])
def test_a_bucket_that_fails_for_a_moment_is_asked_again(bucket, folder, status):
  for act in (lambda: folder.write_bytes(b"1"), folder.read_bytes, folder.exists):
    left = bucket.times(1, status)
    act()
    assert left == [0]


def test_a_file_that_is_not_finished_is_not_uploaded(folder):
  with pytest.raises(KeyError), files.replacing(folder / "a.png") as temporary:
    temporary.write_bytes(b"half")
    raise KeyError
  with pytest.raises(OSError, match="cut") as error, files.replacing(folder / "a.png") as temporary:
    raise OSError(errno.ENOSPC, "cut", str(temporary))
  assert error.value.filename == str(folder / "a.png") and not folder.exists()


def test_of_many_that_write_a_version_one_succeeds(folder):
  path, made = folder / "lock", []

  def write(generation, content):
    made.append(storage.write_version(path, content, generation))

  for generation in (0, None):
    generation = storage.read_version(path)[1] if generation is None else generation
    threads = [threading.Thread(target=write, args=(generation, b"%d" % i)) for i in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sum(new is not None for new in made) == 1
    made.clear()


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(lease, "RENEWED", 0.1)
  monkeypatch.setattr(lease, "LAPSES", 1.0)


def silent(text):
  pass


def test_a_lease_has_one_holder(folder, quick):
  with lease.held(folder, silent):
    with pytest.raises(lease.Taken, match="process [0-9]+ of host"), lease.held(folder, silent):
      pass
  assert not folder.exists()


def test_a_lease_whose_holder_is_silent_lapses_and_the_holder_learns_it(folder, quick, monkeypatch):
  monkeypatch.setattr(lease, "RENEWED", 3.0)  # As of a machine that stood still.
  first = lease.Lease(folder, silent)
  time.sleep(0.1)
  monkeypatch.setattr(lease, "RENEWED", 0.1)
  said = []
  second = lease.Lease(folder, said.append)
  assert "waiting up to 1 s" in said[0]
  first._thread.join(10)
  with pytest.raises(Exception, match="has taken this folder over"):
    first.check()
  first.release()
  second.check()
  assert (folder / "lease.json").exists()
  second.release()


def test_a_bucket_has_no_files_to_append_to(folder):
  for mode in ("a", "w", "wb", "r+b"):
    with pytest.raises(OSError, match="written whole"):
      folder.open(mode)


def test_two_of_the_same_path_are_one(folder):
  assert as_path(str(folder)) == folder and folder.absolute() == folder == folder.resolve()
  assert str(folder.parent) == f"gs://{NAME}"
