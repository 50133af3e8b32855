import jax
import pytest

from nova_jax import compilation_cache


@pytest.mark.parametrize("folder, platform, expected", [
    ("auto", "cpu", None), ("auto", "tpu", "{cache}/nova_jax/programs"), ("off", "tpu", None),
    ("gs://bucket/programs", "cpu", "gs://bucket/programs")])
def test_where_programs_are_kept(folder, platform, expected, monkeypatch, tmp_path):
  expected = expected and expected.format(cache=tmp_path)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setattr(jax, "default_backend", lambda: platform)
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  try:
    compilation_cache.use(folder)
    assert jax.config.jax_compilation_cache_dir == expected
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def test_none_are_kept_where_nothing_can_be_written(monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  monkeypatch.setattr(jax.config, "update", lambda name, value: pytest.fail(f"{name} = {value}"))
  compilation_cache.use("auto")
