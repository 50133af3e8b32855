"""What is said of a model that is loaded."""

import dataclasses
import re

import pytest
from pipeline.test_pipeline import CARD, TINY, save

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
