"""What is said of a model that is loaded."""

import dataclasses
import re

import numpy as np
import pytest
from helpers import SMALL_DIGITS, save_run
from pipeline.test_pipeline import CARD, TINY, save

from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.loading import describe, load_pipeline, say_first_compiles


def test_a_model_is_described(tmp_path, capsys):
  save(tmp_path, CARD, TINY)
  pipe = load_pipeline(tmp_path)
  said = describe(pipe.model.state, pipe.cfg.dtype)
  assert re.fullmatch(r"NOVA, [\d.]+ M parameters, float32 on 1 CPU device", said)
  before, after = capsys.readouterr().out.splitlines()
  assert before == f"loading {tmp_path}" and after.startswith(f"loaded {said}, in ")
  say_first_compiles()
  assert "while its programs compile" in capsys.readouterr().out
  with pytest.raises(ValueError):
    load_pipeline(tmp_path / "none")
  assert capsys.readouterr().out == f"loading {tmp_path / 'none'}\n"


def test_a_card_without_a_transformer_says_so():
  with pytest.raises(ValueError, match="no transformer"):
    assert dataclasses.replace(CARD, model=None).transformer
  assert CARD.transformer == TINY


def test_a_guide_that_can_not_be_loaded_is_named(tmp_path):
  for place, said in ((str(tmp_path / "none"), "there is no folder"), ("params", "is not a training run")):
    with pytest.raises(ValueError, match=f"^guide: .*{said}"):
      Pipeline.load("digits", guide=place)


@pytest.mark.slow
def test_a_guide_is_loaded_beside_a_model(tmp_path):
  """It is other weights of the same run, or a folder of another size; a model of another kind is refused."""
  save_run(tmp_path / "run", SMALL_DIGITS)
  save_run(tmp_path / "thin", dataclasses.replace(SMALL_DIGITS, spatial_depth=3), seed=1)
  save_run(tmp_path / "other", dataclasses.replace(SMALL_DIGITS, patch_size=2))
  pipe = Pipeline.load(tmp_path / "run")
  own, guided = (Pipeline.load(tmp_path / "run", guide=place) for place in ("params", str(tmp_path / "thin")))
  assert own.guide_place == "params" and guided.guide_place == str(tmp_path / "thin")
  assert len({str(each.digests) for each in (pipe, own, guided)}) == 3, "they make other outputs"
  unguided = pipe("the digit two moves up", guidance_scale=1.0, output="latent")
  clips = [each("the digit two moves up", guidance_scale=3.0, output="latent") for each in (own, guided)]
  np.testing.assert_allclose(clips[0], unguided, atol=1e-3 * np.abs(unguided).max())
  assert np.abs(clips[1] - unguided).max() > 1e-2
  with pytest.raises(ValueError, match="guide: .*other has patch_size 2, the model 4; take one of the same kind"):
    Pipeline.load(tmp_path / "run", guide=str(tmp_path / "other"))
