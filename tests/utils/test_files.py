"""Files are written whole or not at all, and what killed writers left is told from what is being written."""

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

from nova_jax.utils import files, writers
from nova_jax.utils.errors import BAD_INPUT, FAILED, exit_code


def leave(folder, host, process, start, name=".clip.{}-{}-{}-0a1b2c.mp4"):
  path = folder / name.format(host, process, start)
  path.write_text("half", encoding="utf-8")
  return path


def test_two_writers_never_share_a_temporary_name(tmp_path, monkeypatch):
  with files.replacing(tmp_path / "clip.mp4") as one, files.replacing(tmp_path / "clip.mp4") as two:
    one.write_text("one", encoding="utf-8")
    two.write_text("two", encoding="utf-8")
    assert one != two and one.suffix == ".mp4"
  assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
  here = writers.writer()
  monkeypatch.setattr(writers.socket, "gethostname", lambda: "another")
  writers._host.cache_clear()
  try:
    assert writers.writer().split("-")[1:] == here.split("-")[1:] and writers.writer() != here
  finally:
    writers._host.cache_clear()


def test_only_what_dead_writers_left_is_removed(tmp_path):
  gone, writing = subprocess.Popen(["true"]), subprocess.Popen(["sleep", "60"])
  gone.wait()
  host, start = writers._host(), writers._start_time(writing.pid)
  dead = leave(tmp_path, host, gone.pid, "1")
  reused = leave(tmp_path, host, writing.pid, "1")  # The number of a process that ended, given to another.
  alive = leave(tmp_path, host, writing.pid, start)
  own = leave(tmp_path, host, os.getpid(), writers._start_time(os.getpid()))
  elsewhere, long_ago = leave(tmp_path, "ffffff", gone.pid, "1"), leave(tmp_path, "eeeeee", gone.pid, "1")
  os.utime(long_ago, (time.time() - 2 * 24 * 3600,) * 2)
  others = leave(tmp_path, host, gone.pid, "1", ".another.{}-{}-{}-0a1b2c.mp4")
  writers.remove_unfinished(tmp_path, "clip.mp4".__eq__)
  writing.kill()
  assert not any(path.exists() for path in (dead, reused, long_ago))
  assert all(path.exists() for path in (alive, own, elsewhere, others))


def test_a_write_that_fails_names_the_file(tmp_path):
  def fail(path: Path) -> None:
    path.write_text("half", encoding="utf-8")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with pytest.raises(OSError, match="No space left") as caught:
    files.write_atomically(tmp_path / "a.json", fail)
  assert caught.value.filename == str(tmp_path / "a.json") and not list(tmp_path.iterdir())


def test_the_longest_names_can_be_written(tmp_path):
  name = "ä" * 124 + "b.json"
  files.write_atomically(tmp_path / name, "{}")
  assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("text, number", [
    ("write() failed: File too large; writing x; at byte 307200", errno.EFBIG),
    ("open() failed: Too many open files; opening x", errno.EMFILE), ("bad chunk header", None)])
def test_failures_of_storage_are_told_from_others_by_what_a_library_says(text, number):
  found = files.storage_error(RuntimeError(text), "shard")
  assert (found and found.errno) == number
  if number == errno.EMFILE:
    assert "ulimit -n" in found.strerror and found.filename == "shard"


def test_a_folder_is_written_to_before_the_work(tmp_path, monkeypatch):
  assert files.check_folder_writable("output", tmp_path / "a/b") == tmp_path / "a/b"
  assert not list((tmp_path / "a/b").iterdir())
  (tmp_path / "file").write_text("", encoding="utf-8")
  for path in ("file", "file/below"):
    with pytest.raises(ValueError, match="--output: .*file.* (is a file|can't be written to)"):
      files.check_folder_writable("output", tmp_path / path)
  for number, code in ((errno.EROFS, BAD_INPUT), (errno.EPERM, BAD_INPUT), (errno.ENOSPC, FAILED)):

    def fail(number=number, **options):
      raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", fail)
    with pytest.raises(ValueError, match=f"the folder .* can.t be written to .{os.strerror(number)}") as error:
      files.check_folder_writable("output", tmp_path)
    assert exit_code(error.value) == code
    with pytest.raises(ValueError, match="--json: the folder"):
      files.check_writable("json", str(tmp_path / "a.json"))
