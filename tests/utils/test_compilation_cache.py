import errno
import warnings
import zlib

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from nova_jax.utils import compilation_cache


@pytest.mark.parametrize("folder, platform, processes, expected", [
    ("auto", "cpu", 1, None), ("auto", "tpu", 1, "{cache}/nova_jax/programs"), ("off", "tpu", 2, None),
    ("gs://bucket/programs", "cpu", 1, "gs://bucket/programs"), ("auto", "tpu", 2, "gs://bucket/run/programs"),
    ("auto", "cpu", 2, None), ("gs://bucket/programs", "tpu", 2, "gs://bucket/programs")])
def test_where_programs_are_kept(folder, platform, processes, expected, monkeypatch, tmp_path):
  expected = expected and expected.format(cache=tmp_path)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setattr(jax, "default_backend", lambda: platform)
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  try:
    compilation_cache.use(folder, shared="gs://bucket/run/programs")
    assert jax.config.jax_compilation_cache_dir == expected
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def test_none_are_kept_where_nothing_can_be_written(monkeypatch, caplog):
  monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  monkeypatch.setattr(jax.config, "update", lambda name, value: pytest.fail(f"{name} = {value}"))
  for folder in ("auto", "/dev/null/programs"):
    compilation_cache.use(folder)
    assert "are not kept: /dev/null/" in caplog.messages.pop()


@pytest.fixture
def programs(tmp_path, monkeypatch):
  """Keep programs in a folder, and run one."""
  monkeypatch.setattr(warnings, "showwarning", lambda *arguments, **more: pytest.fail(str(arguments[0])))
  names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
  before = {name: getattr(jax.config, name) for name in names}
  with warnings.catch_warnings():
    jax_cache.reset_cache()
    compilation_cache.use(str(tmp_path / "programs"), on_cpu=True)
    yield tmp_path / "programs"
  for name, value in before.items():
    jax.config.update(name, value)
  jax_cache.reset_cache()


def run():
  """Compile as a new process would."""
  jax.clear_caches()
  jax.jit(lambda x: jnp.sin(x) + 17.25)(jnp.arange(3.0)).block_until_ready()


def entries(folder):
  return {path.name: path.read_bytes() for path in folder.glob("*-cache")}


@pytest.mark.parametrize("damage", [
    lambda content: content[: len(content) // 2], lambda content: b"",
    lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    lambda content: zlib.compress(b"no program")], ids=["cut", "empty", "flipped", "another"])
def test_damaged_programs_are_made_anew(programs, damage, caplog):
  run()
  whole = entries(programs)
  for name, content in whole.items():
    (programs / name).write_bytes(damage(content))
  run()
  assert len(caplog.messages) == 1
  after = entries(programs)
  assert after.keys() == whole.keys() and all(zlib.decompress(content) != b"no program" for content in after.values())
  run()
  assert len(caplog.messages) == 1 and entries(programs) == after


def test_a_disk_that_is_full_is_said_once(programs, monkeypatch, caplog):
  def write(path, content):
    with open(path, "wb") as file:  # What fits.
      file.write(content[:20])
    raise OSError(errno.ENOSPC, "No space left on device")

  with monkeypatch.context() as full:
    full.setattr(type(epath.Path(programs)), "write_bytes", write)
    run()
  assert caplog.text.count("No space left on device") == 1 and not entries(programs)
  run()
  assert entries(programs)
