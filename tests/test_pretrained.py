"""The models that come with the package: found by name, taken when none is named, and able to do what they say."""

from pathlib import Path

import jax
import numpy as np
import pytest
from commands import run
from flax import nnx
from safetensors.numpy import load_file

import nova_jax
from nova_jax import pretrained
from nova_jax.checkpoints.weight_files import open_weights
from nova_jax.evals.digits import one_digit, two_digits
from nova_jax.pipeline.provenance import read_provenance
from nova_jax.utils import compilation_cache

DIGITS = pretrained.FOLDER / "digits"
TWO_DIGITS = pretrained.FOLDER / "two_digits"


def test_models_are_found_by_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert pretrained.names() == ["digits", "two_digits"] and pretrained.find("digits") == DIGITS
  assert pretrained.find("digts") == "digts" and pretrained.name_of("digts") is None
  assert pretrained.name_of("digits") == pretrained.name_of(DIGITS) == "digits"
  Path("digits").mkdir()
  assert pretrained.find("digits") == "digits", "a folder of the user's wins"
  assert pretrained.name_of("digits") is None
  assert pretrained.find("gs://bucket/digits") == "gs://bucket/digits"


@pytest.mark.parametrize("folder, megabytes", [(DIGITS, 8), (TWO_DIGITS, 20)])
def test_weights_are_small_and_become_float32(folder, megabytes):
  weights = open_weights(folder / "transformer").values()
  assert {weight.dtype for weight in weights} == {np.dtype("float16")}
  assert sum(path.stat().st_size for path in folder.rglob("*")) < megabytes * 1e6
  parameters = jax.tree.leaves(nnx.state(nova_jax.load_model(folder.name), nnx.Param))
  assert {weight.dtype for weight in parameters} == {np.dtype("float32")}
  assert nova_jax.open_folder(Path(folder.name)).card.words, "prompts with unknown words get a note"


def test_a_clip_needs_a_prompt_alone(tmp_path):
  done = run("sample", "--prompt", "the digit seven moves left", "--output", tmp_path, "--formats", "latents")
  assert done.returncode == 0, done.stderr
  assert f"no --checkpoint is given, so this is the model digits that comes with nova_jax, in {DIGITS}" in done.stdout
  (file,) = tmp_path.iterdir()
  assert read_provenance(file).checkpoint == "digits", "the file is made again where the package lies elsewhere, too"
  clip = nova_jax.make_autoencoder("pixels").decode(load_file(file)["latents"][None])[..., 0]
  score = one_digit.score(clip, [7], ["left"], one_digit.DigitClassifier())
  assert all(score[name].value == 1 for name in ("digit", "direction", "same_digit")), score


@pytest.mark.slow
def test_two_digits_cross():
  pipe = nova_jax.Pipeline.load("two_digits")
  clips = np.asarray(pipe("the digit three moves left in front of the digit seven, which moves up", num_samples=4))
  score = two_digits.score(clips[..., 0], [3] * 4, ["left"] * 4, [(7, "up")] * 4, one_digit.DigitClassifier())
  assert all(score[name].value >= 0.75 for name in ("digits", "directions", "depth", "same_digits")), score


def test_only_the_digits_are_scored_without_a_checkpoint(tmp_path, monkeypatch):
  kept = []
  monkeypatch.setattr(compilation_cache, "use", lambda folder, on_cpu: kept.append((folder, on_cpu)))
  done = run("evaluate", "--benchmark", "geneval", "--output", tmp_path)
  assert done.returncode == 2 and "--checkpoint: say which model to sample for geneval" in done.stderr
  scored = []
  monkeypatch.setattr("nova_jax.cli.evaluate.score_digits", lambda pipe, *_, **__: scored.append(pipe.card) or 1 / 0)
  run("evaluate", "--output", tmp_path)
  run("evaluate", "--benchmark", "two_digits", "--output", tmp_path)
  assert kept == [("auto", True)] * 3, "a second scoring compiles nothing"
  assert scored == [nova_jax.open_folder(folder).card for folder in (DIGITS, TWO_DIGITS)]
  assert scored[0] == nova_jax.Pipeline.load().card
