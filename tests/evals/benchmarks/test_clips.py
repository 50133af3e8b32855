"""Predicted frames of real clips: which clips, what is given, shared out and continued; and what can't be."""

import json

import commands
import numpy as np
import pytest
from evals.benchmarks.test_sampling import contents
from pipeline.test_pipeline import CARD, TINY, save

from nova_jax.autoencoders.pixels import PixelAutoencoder
from nova_jax.evals.benchmarks.evaluate import check_folder
from nova_jax.evals.benchmarks.frame_prediction import PROTOCOLS, Protocol, prediction_layout
from nova_jax.evals.features.extract import read_clip
from nova_jax.media.lossless import write_avi

ONE = Protocol(2, 3, 2, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  save(folder, CARD, TINY)
  return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
  """Five grey clips of five frames, of the model's size."""
  folder, rng = tmp_path_factory.mktemp("real"), np.random.default_rng(0)
  for i in range(5):
    (folder / f"class{i % 2}").mkdir(exist_ok=True)
    write_avi(folder / f"class{i % 2}/clip{i}.avi", rng.integers(0, 256, (5, 8, 8, 1), np.uint8), 8)
  return folder


def test_clips_are_spread_and_named(real):
  layout = prediction_layout("bair", real, ONE)
  assert [path.name for path in layout.clips.values()] == ["clip0.avi", "clip2.avi", "clip1.avi"] and not layout.notes
  assert list(layout.clips) == ["real/00000_clip0.avi", "real/00001_clip2.avi", "real/00002_clip1.avi"]
  assert [item.path for item in layout.items[:3]] == [
      "generated/00000_clip0_000.avi", "generated/00000_clip0_001.avi", "generated/00001_clip2_000.avi"]
  assert layout.is_video and len(prediction_layout("bair", real, PROTOCOLS["bair"]).items) == 500
  assert "5 clips; bair takes 256" in prediction_layout("bair", real, PROTOCOLS["bair"]).notes[0]
  with pytest.raises(ValueError, match="so 2 leave none to predict of 2 given ones"):
    prediction_layout("bair", real, Protocol(2, 2, 1, 1))


def test_tables_have_captions_or_classes(real, tmp_path):
  table = tmp_path / "clips.csv"
  table.write_text(f"path,label\n{real}/class0/clip0.avi,7\n", encoding="utf-8")
  assert prediction_layout("ucf101", table, ONE).items[0].label == 7
  table.write_text(f"path,caption\n{real}/class0/clip0.avi,a robot\n", encoding="utf-8")
  assert prediction_layout("ucf101", table, ONE).items[1][:5] == (
      "generated/00000_clip0_001.avi", "00000_clip0", "a robot", (1,), None)
  for text, message in (("path,label\na.avi,x\n", "label: expected the number"), ("file,label\na,1\n", "with path")):
    table.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
      prediction_layout("ucf101", table, ONE)


@pytest.mark.slow
def test_a_model_predicts_what_follows_the_given_frames(model, real, tmp_path, capsys):
  args = (
      "evaluate", "--benchmark=bair", "--checkpoint", model, "--prompts", real, "--num_frames=3", "--num_samples=2",
      "--num_clips=3", "--batch_size=4", "--num_inference_steps=2", "--output")
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  for output, shard in ((whole, "0/1"), (parts, "1/2"), (parts, "0/2")):
    done = commands.run(*args, output, "--shard", shard)
    assert done.returncode == 0, done.stderr
  assert contents(whole) == contents(parts)
  scored = whole / "bair"
  autoencoder = PixelAutoencoder()
  for number, name in enumerate(("clip0", "clip2", "clip1")):
    clip = read_clip(scored / f"real/{number:05}_{name}.avi")
    np.testing.assert_array_equal(clip, read_clip(next(real.glob(f"*/{name}.avi")))[:3], err_msg="without loss")
    samples = [read_clip(scored / f"generated/{number:05}_{name}_{j:03}.avi") for j in range(2)]
    given = autoencoder.decode(autoencoder.encode(clip[None, :2, ..., :1]))[0]
    assert all(np.abs(sample[:2, ..., :1].astype(int) - given).max() <= 1 for sample in samples)
    assert (samples[0][2] != samples[1][2]).any()
  assert json.loads((whole / "manifest.json").read_text(encoding="utf-8"))["context_frames"] == 2
  assert check_folder(whole, "digits", None)
  out = capsys.readouterr().out
  assert "9 of 9 files, 3 frames of 8 x 8" in out and "--benchmark prediction --real" in out
  (scored / "real/00000_clip0.avi").unlink()
  failed = commands.run(*args, whole, "--context_frames=1")
  assert failed.returncode == 2 and "context_frames was 2, now 1; use another --output" in failed.stderr
  assert commands.run(*args, whole).returncode == 0 and contents(whole) == contents(parts)


@pytest.mark.parametrize("more, message", [
    (("--context_frames=3", "--num_frames=4"), "gives 3 frames; this model's latents can stand for 1, 2 of them"),
    (("--num_frames=6",), "clip0.avi has 5 frames; expected 6 or more"),
    (("--num_pictures=3",), "--num_pictures is given, but not used by bair")])
def test_what_a_model_or_a_clip_can_not_be_is_said(model, real, tmp_path, more, message):
  failed = commands.run(
      "evaluate", "--benchmark=bair", "--checkpoint", model, "--prompts", real, "--num_clips=1", "--num_samples=1",
      "--output", tmp_path / "out", *more)
  assert failed.returncode == 2 and message in failed.stderr
