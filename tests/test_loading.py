"""What is said of a model that is loaded."""

import re

import pytest

from nova_jax.loading import describe, load_pipeline, say_first_compiles
from test_pipeline import CARD, TINY, save


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
