"""The examples run as their first lines say, with tiny models."""

import dataclasses
import json
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from pipeline.test_pipeline import CARD, save

import nova_jax
from nova_jax.media import write_mp4

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DIGITS = nova_jax.ModelConfig(
    latent_dim=1, latent_size=(16, 16), patch_size=4, width=32, num_heads=2, temporal_depth=1, spatial_depth=2,
    denoiser_depth=1, denoiser_width=16, base_frames=4, text_dim=8, text_len=8, mixer_rank=-1)


def run(monkeypatch, name, *arguments):
  monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
  monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
  try:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
  finally:
    logging.getLogger("nova_jax").setLevel(logging.NOTSET)


@pytest.mark.slow
def test_a_training_loop_of_ones_own(monkeypatch, tmp_path, capsys):
  lines = [line for line in (EXAMPLES / "train_loop.py").read_text(encoding="utf-8").splitlines() if line]
  assert len(lines) <= 25
  monkeypatch.setattr(nova_jax, "PRESETS", {"digits": DIGITS}, raising=False)
  run(monkeypatch, "train_loop.py", tmp_path, 12)
  losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
  assert len(losses) == 12 and np.mean(losses[-4:]) < losses[0]


def test_sampling(monkeypatch, tmp_path):
  save(tmp_path / "model")
  run(monkeypatch, "sample.py", tmp_path / "model", tmp_path / "clip.mp4", "the digit one")
  assert (tmp_path / "clip.mp4").stat().st_size > 0


def test_a_task_of_ones_own(monkeypatch, tmp_path):
  run(monkeypatch, "task.py", tmp_path / "run", 12)
  lines = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
  assert json.loads(lines[-1])["step"] == 12 and (tmp_path / "run/checkpoints/12").is_dir()
  run(monkeypatch, "task.py", tmp_path / "run", 12)  # There is nothing left to do.


@pytest.fixture
def clips(tmp_path):
  for seed, caption in enumerate(("one", "two")):
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 16, 16, 3), np.uint8)
    (tmp_path / "clips").mkdir(exist_ok=True)
    write_mp4(tmp_path / f"clips/{caption}.mp4", pixels, 4)
    (tmp_path / f"clips/{caption}.txt").write_text(caption, encoding="utf-8")
  return tmp_path / "clips"


@pytest.mark.slow
def test_fine_tuning(monkeypatch, tmp_path, clips):
  model = dataclasses.replace(DIGITS, latent_dim=3, patch_size=4, base_frames=2)
  save(tmp_path / "model", dataclasses.replace(CARD, model=model, autoencoder="rgb", num_frames=2), model)
  run(monkeypatch, "finetune.py", tmp_path / "model", clips, tmp_path / "run", 2)
  before, after = (nnx.state(nova_jax.load_model(tmp_path / folder)) for folder in ("model", "run"))
  moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
  assert 0 < max(moved) < 1e-3  # From the model's weights, with a small learning rate.


@pytest.mark.parametrize("name", ["finetune.py", "new_sign.py"])
def test_an_example_that_needs_arguments_says_which(monkeypatch, name):
  with pytest.raises(SystemExit, match=rf"python examples/{name} [A-Z]"):
    run(monkeypatch, name)


@pytest.mark.slow
def test_the_notebook(tmp_path):
  """All cells run, in a folder of their own, with fewer steps of training."""
  pytest.importorskip("nbmake", reason="needs the extra dev")
  text = (EXAMPLES / "nova_jax.ipynb").read_text(encoding="utf-8")
  assert not any(cell.get("outputs") for cell in json.loads(text)["cells"])
  assert text.count("=150, ") == 3
  (tmp_path / "nova_jax.ipynb").write_text(text.replace("=150, ", "=4, "), encoding="utf-8")
  done = subprocess.run(
      [sys.executable, "-m", "pytest", "-q", "--nbmake", "--nbmake-timeout=1800", "--overwrite", "nova_jax.ipynb"],
      cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}, capture_output=True, encoding="utf-8")
  assert done.returncode == 0, done.stdout
  cells = json.loads((tmp_path / "nova_jax.ipynb").read_text(encoding="utf-8"))["cells"]
  shown = [output["data"] for cell in cells for output in cell.get("outputs", ()) if "data" in output]
  assert sum("data:image/webp" in "".join(data.get("text/html", ())) for data in shown) == 3
  assert (tmp_path / "runs/mine/checkpoints/4").is_dir() and (tmp_path / "runs/after/scores.json").is_file()
