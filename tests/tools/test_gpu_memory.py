"""The table of what fits into a GPU is made from exact numbers of weights, and is the one in the docs."""

import contextlib
import io
import math
from pathlib import Path

import pytest
from tables.read import read_table

from benchmarks import gpu_memory
from nova_jax.config import PRESETS

DOCS = Path(__file__).resolve().parents[2] / "docs/gpu.md"


def test_weights_are_those_of_the_released_models():
  _, weights = read_table("phi-2")
  used = {name: shape for name, shape in weights.items() if not name.startswith("lm_head")}
  assert gpu_memory.text_encoder_bytes() == 2 * sum(map(math.prod, used.values()))
  assert gpu_memory.transformer_weights(PRESETS["nova-d48w768-sdxl1024"]) == 365_256_720


@pytest.mark.slow
def test_a_thin_update_and_a_freed_encoder_take_less():
  for name, (frames, decode) in gpu_memory.RELEASED.items():
    cfg = PRESETS[name]
    assert gpu_memory.training_bytes(cfg, frames, True) < gpu_memory.training_bytes(cfg, frames, False)
    saved = gpu_memory.sampling_bytes(cfg, frames, decode, True) - gpu_memory.sampling_bytes(cfg, frames, decode, False)
    assert saved == gpu_memory.text_encoder_bytes()


@pytest.mark.parametrize("size, text", [(7 * 10**9, "6.5, 8 GB"), (8 * 10**9, "7.5, 16 GB"), (10**11, "more than one")])
def test_a_tenth_of_a_gpu_is_left_free(size, text):
  assert gpu_memory.fits(size).endswith(text)


@pytest.mark.slow
def test_the_docs_have_its_table():
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    gpu_memory.main()
  assert out.getvalue() in DOCS.read_text(encoding="utf-8")
