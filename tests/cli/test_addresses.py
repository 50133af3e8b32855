import sys

import pytest
from ml_collections import ConfigDict

from nova_jax import storage
from nova_jax.cli.addresses import check_addresses
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_folder, write_atomically


@pytest.fixture
def gcsfs(monkeypatch):
  """Makes as if the package were installed, which no address here is used with."""
  monkeypatch.setitem(sys.modules, "gcsfs", sys)


@pytest.mark.parametrize("values, message", [
    ({"setup": "gs://bucket/setup"}, "--setup: gs://bucket/setup is in a bucket, where this can't be; give a local"),
    ({"output": "az://bucket/out"}, "--output: az://bucket/out: only gs:// and s3:// addresses can be used"),
    ({"output": "memory://"}, "--output: memory://: expected memory://BUCKET/FOLDER"),
    ({"workdir": "memory://b/run"}, "--workdir: memory://b/run can't hold this; give a local path or a gs:// address"),
    ({"workdir": "gs://"}, "--workdir: gs://: expected gs://BUCKET/FOLDER"),
    ({"config": ConfigDict({"data": {"sources": [{"path": "gs://"}]}})},
     r"--config.data.sources\[0\].path: gs://: expected")])
def test_an_address_that_can_not_be_used_is_refused_in_one_line(gcsfs, values, message):
  with pytest.raises(UserError, match=message):
    check_addresses(values)


def test_without_the_package_the_line_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  monkeypatch.setitem(sys.modules, "s3fs", None)
  with pytest.raises(UserError, match="--workdir: gs://bucket/run: .* need the package gcsfs: pip install gcsfs"):
    check_addresses({"workdir": "gs://bucket/run"})
  with pytest.raises(UserError, match="--output: s3://bucket/out: .* need the package s3fs: pip install s3fs"):
    check_addresses({"output": "s3://bucket/out"})


def test_the_page_serves_clips_from_a_disk(gcsfs):
  with pytest.raises(UserError, match="--output: gs://bucket/demo is in a bucket"):
    check_addresses({"output": "gs://bucket/demo"}, "nova_jax.cli.demo")


def test_what_is_no_address_is_left_alone(gcsfs):
  check_addresses({
      "prompt": ["gs://bucket in neon letters"], "workdir": "runs/gs", "compilation_cache": "gs://bucket/programs",
      "checkpoint": None, "source": "https://example.org/a.mp4", "steps": 3, "config": ConfigDict({"init": None})})


@pytest.mark.parametrize("write", [lambda path: check_folder("workdir", path), lambda path: write_atomically(path, "")])
@pytest.mark.parametrize("address", ["gs:/bucket/run", "/gs/bucket/run", "/s3/bucket/run", "az://bucket/run"])
def test_no_address_becomes_the_name_of_a_local_folder(tmp_path, monkeypatch, write, address):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=address):
    write(address)
  assert not list(tmp_path.iterdir())


def test_a_local_path_is_no_other_than_before(tmp_path):
  assert storage.as_path(tmp_path) == tmp_path and type(storage.as_path("a")) is type(tmp_path)
