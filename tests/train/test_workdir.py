"""Who may continue in a workdir: the same experiment on the same content, however its paths are written."""

import dataclasses
import json
import shutil

import pytest
from data.latent_caches import make_cache, make_record
from train import toy_run

from nova_jax.config import DataConfig, SourceConfig
from nova_jax.data.digits.datasets import MovingDigits
from nova_jax.train.workdir import identity
from nova_jax.train.workdir.claim import claim


@pytest.fixture
def caches(tmp_path):
  for name, numbers in (("a", (1, 2)), ("b", (3, 4))):
    make_cache(tmp_path / name, [make_record(number, 4) for number in numbers])
  return tmp_path


def on(path, **fields):
  data = DataConfig(name="caches", sources=(SourceConfig(str(path)),))
  return dataclasses.replace(toy_run.make_experiment(), data=data, **fields)


def enter(workdir, experiment):
  with claim(workdir, experiment):
    pass


def test_another_spelling_of_the_same_cache_continues(caches, monkeypatch):
  run = caches / "run"
  enter(run, on(caches / "a"))
  (caches / "link").symlink_to(caches / "a")
  shutil.copytree(caches / "a", caches / "copy")
  monkeypatch.chdir(caches)
  for path in (f"{caches}/a/", "a", "./a", caches / "link", caches / "copy", f"{caches}/b/../a"):
    enter(run, on(path))
  shutil.move(caches / "a", caches / "elsewhere")
  enter(run, on(caches / "elsewhere"))
  config = json.loads((run / "config.json").read_text(encoding="utf-8"))
  assert config["data"]["sources"][0]["path"].endswith("elsewhere")


def test_another_cache_is_refused_by_name_also_under_the_same_path(caches):
  run = caches / "run"
  enter(run, on(caches / "a"))
  with pytest.raises(ValueError, match=r"data.sources.0.path: was .*/a'; .*/b' holds something else .*; use another"):
    enter(run, on(caches / "b"))
  shutil.rmtree(caches / "a")
  shutil.move(caches / "b", caches / "a")
  with pytest.raises(ValueError, match=r"data.sources.0.path: '.*/a' holds something else than what the run began"):
    enter(run, on(caches / "a"))


def test_a_run_of_an_older_version_goes_by_the_path(caches):
  run = caches / "run"
  enter(run, on(caches / "a"))
  (run / "identity.json").unlink()
  with pytest.raises(ValueError, match="data.sources.0.path was"):
    enter(run, on(caches / "b"))
  enter(run, on(f"{caches}/a/"))
  assert (run / "identity.json").exists()


def test_digits_of_another_version_are_refused(tmp_path, monkeypatch):
  enter(tmp_path, toy_run.make_experiment())
  monkeypatch.setattr(MovingDigits, "VERSION", "0.1.0")
  with pytest.raises(ValueError, match="data were moving_digits 1.*, now moving_digits 0.1.0"):
    enter(tmp_path, toy_run.make_experiment())


def test_model_folders_are_told_by_their_weights(tmp_path, monkeypatch):
  """Weights are read again only if a file has changed."""
  for name, content in (("one", "w1"), ("two", "w2")):
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights").write_text(content, encoding="utf-8")
  read = []

  def digest(folder):
    read.append(folder)
    return (folder / "weights").read_text(encoding="utf-8")

  monkeypatch.setattr(identity, "open_single_part", lambda folder, *_: folder)
  monkeypatch.setattr(identity, "weights_digest", digest)
  experiment = lambda name: dataclasses.replace(toy_run.make_experiment(), autoencoder=str(tmp_path / name))
  run = tmp_path / "run"
  enter(run, experiment("one"))
  enter(run, experiment("one/"))
  assert len(read) == 1
  shutil.copytree(tmp_path / "one", tmp_path / "copy")
  enter(run, experiment("copy"))
  with pytest.raises(ValueError, match="autoencoder: was .*copy'; .*two' holds something else"):
    enter(run, experiment("two"))
  (tmp_path / "copy/weights").write_text("other", encoding="utf-8")
  with pytest.raises(ValueError, match="autoencoder: '.*copy' holds something else"):
    enter(run, experiment("copy"))


@pytest.mark.parametrize("name", ["config.json", "identity.json"])
@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"null", b"[" * 100_000], ids=len)
def test_damaged_files_are_one_line_that_says_what_to_do(tmp_path, name, content):
  enter(tmp_path, toy_run.make_experiment())
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=rf"{name}.*; bring back a copy of the file, or remove this file alone") as error:
    enter(tmp_path, toy_run.make_experiment())
  assert "\n" not in str(error.value) and len(str(error.value)) < 600
