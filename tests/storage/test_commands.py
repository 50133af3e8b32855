"""Commands whose paths are in a bucket write what they write on a disk, byte for byte."""

import dataclasses
import sys

import numpy as np
import pytest
from helpers import save_lora_run, save_run
from pipeline.test_pipeline import CARD, TINY, save
from safetensors.numpy import load

from nova_jax.checkpoints.lora import open_lora
from nova_jax.checkpoints.lora_export import write_lora
from nova_jax.cli import convert, evaluate, sample
from nova_jax.config import LoraConfig
from nova_jax.storage import as_path
from nova_jax.tools.sweeps import engine
from nova_jax.tools.sweeps.engine import Trial, run_trials
from nova_jax.tools.sweeps.plan import Sweep
from nova_jax.tools.sweeps.report import write_report

pytestmark = pytest.mark.slow


# Digits have room to move, and the published code knows the width.
CFG = dataclasses.replace(TINY, width=64, latent_size=(16, 16), patch_size=4, text_len=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  save(folder, dataclasses.replace(CARD, model=CFG), CFG)
  return folder


def copy(source, target):
  """Copy a folder into a bucket."""
  for path in source.rglob("*"):
    if path.is_file():
      (target / path.relative_to(source)).write_bytes(path.read_bytes())
  return target


def files(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(command, *args):
  return command.COMMAND.execute(["program", *map(str, args)])


def test_sample_reads_a_model_and_prompts_and_writes_clips(model, folder, tmp_path):
  remote = copy(model, folder / "run")
  (tmp_path / "prompts.txt").write_text("one\ntwo\n", encoding="utf-8")
  copy(tmp_path, folder)
  common = "--formats=mp4,gif,webp,sheet", "--compilation_cache=off"
  assert run(sample, "--checkpoint", model, "--output", tmp_path / "out", "--prompts", tmp_path / "prompts.txt",
             *common) == 0
  assert run(sample, "--checkpoint", remote, "--output", folder / "out", "--prompts", folder / "prompts.txt",
             *common) == 0
  ours, expected = files(folder / "out"), files(tmp_path / "out")
  assert ours.keys() == expected.keys() and len(ours) == 9
  made = next(name for name in ours if name.endswith(".mp4"))
  assert len(ours[made]) == pytest.approx(len(expected[made]), abs=200)  # It says where the model lies.
  again = folder / "again"
  assert run(sample, "--reproduce", folder / "out" / made, "--output", again, "--formats=mp4",
             "--compilation_cache=off") == 0
  assert list(files(again).values()) == [ours[made]]
  assert run(sample, "--reproduce", folder / "out" / made, "--output", again, "--formats=latents",
             "--compilation_cache=off") == 0
  latents = next(again.glob("*.safetensors"))
  assert run(sample, "--reproduce", latents, "--output", folder / "third", "--formats=mp4",
             "--compilation_cache=off") == 0
  assert list(files(folder / "third").values()) == [ours[made]]


def test_sample_goes_on_from_a_picture_in_a_bucket(model, folder, tmp_path, capsys):
  assert run(sample, "--checkpoint", model, "--output", folder, "--prompt=one", "--formats=png", "--num_frames=1",
             "--compilation_cache=off") == 0
  picture = next(folder.glob("*.png"))
  assert run(sample, "--checkpoint", model, "--output", folder / "clip", "--prompt=one", "--image", picture,
             "--formats=mp4", "--compilation_cache=off") == 0
  assert len(files(folder / "clip")) == 1
  assert run(sample, "--checkpoint", model, "--output", tmp_path, "--prompt=one", "--image", folder / "none.png",
             "--compilation_cache=off") == 2
  assert capsys.readouterr().err.endswith(f"{folder}/none.png does not exist\n")


def test_a_benchmark_is_sampled_continued_and_checked(model, folder, tmp_path, capsys):
  (tmp_path / "prompts.txt").write_text("one moves\ntwo moves\n", encoding="utf-8")
  common = "--benchmark=t2i_compbench", "--batch_size=2"
  for name, place in (("local", tmp_path), ("remote", folder)):
    copy(tmp_path, folder)
    assert run(evaluate, *common, "--checkpoint", model, "--prompts", place / "prompts.txt", "--output", place / name,
               "--shard=0/2") == 0
    assert run(evaluate, *common, "--checkpoint", model, "--prompts", place / "prompts.txt", "--output", place / name,
               "--shard=1/2") == 0
  ours, expected = files(folder / "remote"), files(tmp_path / "local")
  assert ours == expected
  assert run(evaluate, "--check", folder / "remote") == 0
  next(path for path in (folder / "remote").rglob("*.png")).unlink()
  assert run(evaluate, "--check", folder / "remote") == 1
  assert "1 missing" in capsys.readouterr().out


def test_the_digits_are_scored_into_a_bucket(model, folder, tmp_path):
  for place in (tmp_path, folder):
    assert run(evaluate, "--benchmark=digits", "--checkpoint", model, "--output", place, "--num_prompts=8",
               "--batch_size=8") == 0
  assert files(folder).keys() == files(tmp_path).keys()
  assert files(folder)["sheet.png"] == files(tmp_path)["sheet.png"]


def test_a_model_is_converted_from_and_into_a_bucket_and_back(model, folder, tmp_path, bucket, capsys):
  remote = copy(model, folder / "run")
  assert run(convert, "--source", remote, "--target", folder / "published") == 0
  assert run(convert, "--source", model, "--target", tmp_path / "published") == 0
  ours, expected = files(folder / "published"), files(tmp_path / "published")
  assert ours == expected
  uploads = [path for path in bucket.requests if path.startswith("POST /upload") and f"{folder.name}/published" in path]
  assert "model_index.json" in [path for path in uploads if "lease.json" not in path][-1]
  assert run(convert, "--source", folder / "published", "--target", folder / "ours") == 0
  assert run(convert, "--source", folder / "ours", "--target", tmp_path / "again") == 0
  assert {name: files(tmp_path / "again")[name] for name in expected if name.endswith(".safetensors")} == {
      name: expected[name] for name in expected if name.endswith(".safetensors")}
  capsys.readouterr()
  assert run(convert, "--source", remote, "--target", folder / "published") == 2
  assert f"{folder}/published exists" in capsys.readouterr().err
  (folder / "published/model_index.json").unlink()  # As if its upload had ended before.
  assert run(convert, "--source", remote, "--target", folder / "published") == 0
  assert run(sample, "--checkpoint", folder / "published", "--prompt=one", "--output", folder / "out",
             "--formats=latents", "--compilation_cache=off") == 0


def test_a_sweep_keeps_its_points_in_a_bucket(folder, monkeypatch):
  script = """
import json, sys
from nova_jax.storage import as_path
trial = json.loads(as_path(sys.argv[1]).read_text())
print("working")
trial["fails"] and sys.exit("no")
as_path(trial["result"]).write_text('{"digit": 1.0}')
"""
  monkeypatch.setattr(engine, "COMMAND", (sys.executable, "-c", script))
  trials = [
      Trial({"seed": number}, folder / name, name,
           {"experiment": None, "result": str(folder / name / "result.json"), "fails": number, "num_prompts": 4})
      for number, name in enumerate(("good", "bad"))]
  said = []
  run_trials(trials, 2, (0, 1), said.append)
  assert trials[0].result == {"digit": 1.0} and trials[1].error == "no"
  assert (folder / "good/log.txt").read_text(encoding="utf-8") == "working\n"
  run_trials(trials[:1], 2, (0, 1), said.append)
  assert said[-1] == "seed=0: done before"
  write_report(Sweep("title", "about", [trial.point for trial in trials]), trials, folder)
  assert {"results.csv", "results.md", "index.html"} <= {path.name for path in folder.iterdir()}


def test_what_can_not_be_used_is_said_in_one_line(model, bucket, folder, capsys):
  base = "--prompt=one", "--compilation_cache=off"
  assert run(sample, "--checkpoint", folder / "none", "--output", folder, *base) == 2
  assert f"there is no folder {folder}/none" in capsys.readouterr().err
  assert run(sample, "--checkpoint", model, "--output", "gs://none/out", *base) == 2
  assert "there is no such bucket" in capsys.readouterr().err
  bucket.fail = lambda method, path: 403
  assert run(sample, "--checkpoint", folder / "run", "--output", as_path("gs://bucket/out"), *base) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and "no permission (" in error


def test_sample_adds_a_lora_and_a_guide_of_the_bucket(folder, tmp_path):
  base = tmp_path / "base"
  save_run(base, CFG)
  save_lora_run(tmp_path / "run", base, CFG, LoraConfig(rank=2, targets=("blocks/attn",)))
  write_lora(open_lora(tmp_path / "run"), tmp_path / "lora")
  copy(tmp_path / "lora", folder / "lora")
  copy(base, folder / "base")
  common = "--checkpoint", base, "--prompt", "one", "--formats=latents", "--compilation_cache=off"
  assert run(sample, *common, "--lora", tmp_path / "lora", "--guide", base, "--output", tmp_path / "out") == 0
  assert run(sample, *common, "--lora", folder / "lora", "--guide", folder / "base", "--output", folder / "out") == 0
  (here,), (there,) = (list(place.glob("*.safetensors")) for place in (tmp_path / "out", folder / "out"))
  arrays = [load(path.read_bytes())["latents"] for path in (here, there)]
  np.testing.assert_array_equal(*arrays)
