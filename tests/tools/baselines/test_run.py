"""From a trained baseline to clips and scores, and from results to the report."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from nova_jax.config import PRESETS, DataConfig, Experiment, StageConfig, TrainConfig
from nova_jax.evals.digits.one_digit import Proportion
from nova_jax.evals.digits.score import DigitsScore
from nova_jax.tools.baselines import run
from nova_jax.tools.baselines.report import write_report
from nova_jax.tools.sweeps.engine import Trial
from nova_jax.utils.files import write_atomically

EXPERIMENT = Experiment(
    model=PRESETS["digits"], data=DataConfig(num_records=200),
    train=TrainConfig(steps=10, stages=(StageConfig(batch_size=2, num_frames=4),)))


TWO_DIGITS = dataclasses.replace(
    EXPERIMENT, model=PRESETS["two_digits"], data=DataConfig(name="two_digits", num_records=200, canvas=32),
    train=TrainConfig(steps=10, stages=(StageConfig(batch_size=2, num_frames=8),)))


@pytest.mark.parametrize("experiment", [EXPERIMENT, TWO_DIGITS], ids=lambda experiment: experiment.data.name)
def test_baselines_are_as_large_as_nova(tmp_path, monkeypatch, experiment):
  monkeypatch.setattr(run, "fit_codebook", lambda tokens, num_codes, seed: np.zeros((num_codes, 16), np.float32))
  monkeypatch.setattr(run.datasets, "prepare", lambda folder, cfg: {
      "train": [{"video": np.zeros((8, *experiment.model.latent_size, 1), np.uint8)}]})
  nova = run.count_parameters(experiment.model)
  for name in run.PARADIGMS[1:]:
    baseline = run.make_baseline(name, experiment, tmp_path)
    model = nnx.eval_shape(lambda: baseline.init(nnx.Rngs(0)))
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert size == pytest.approx(nova, rel=0.07), name


def test_the_codebook_is_fitted_once_and_real_clips_tell_what_it_costs(tmp_path, monkeypatch):
  monkeypatch.setattr(run, "NUM_CODES", 64)
  baseline = run.make_baseline("quantized", EXPERIMENT, tmp_path)
  monkeypatch.setattr(run, "fit_codebook", None)
  again = run.make_baseline("quantized", EXPERIMENT, tmp_path)
  np.testing.assert_array_equal(baseline.codebook, again.codebook)
  shown = run.quantized_clips(baseline, EXPERIMENT, 40)
  assert shown["digit"][0] > 0.7 and shown["direction"][0] > 0.95
  assert shown["retrieval@1"][0] < 1, "a codebook of 64 can't show all digits"


def test_two_digits_have_their_own_scores(tmp_path):
  generate = lambda prompts, seeds, scale: np.zeros((len(prompts), 8, 32, 32, 1), np.uint8)
  trial = {"num_prompts": 40, "batch_size": 40}
  result, kept = run.score(generate, 1.5, TWO_DIGITS, trial, tmp_path, seed=0)
  assert list(result.scores) == ["digits", "directions", "depth", "same_digits", "retrieval@last"]
  assert "in front of" in kept["prompts"][0]


def test_clips_are_guided_at_the_scale_and_the_first_are_kept_with_their_prompts(tmp_path):
  asked = []

  def generate(prompts, seeds, scale):
    asked.append((list(seeds), scale))
    return np.full((len(prompts), 4, 16, 16, 1), len(asked), np.uint8)

  trial = {"num_prompts": 40, "batch_size": 20}
  result, kept = run.score(generate, 1.5, EXPERIMENT, trial, tmp_path, seed=2)
  assert asked == [(list(range(80, 100)), 1.5), (list(range(100, 120)), 1.5)]
  assert result.scores["digit"].value < 0.5
  assert len(kept["prompts"]) == 20 and (kept["clips"] == 1).all()


def test_the_best_scale_of_guidance_is_chosen_over_all_scores():
  shares = {1.0: (0.2, 0.9), 1.5: (0.8, 0.8), 2.5: (0.9, 0.6), 4.0: (1.0, 0.1), 7.0: (1.0, 0.0)}
  names = "digit", "retrieval@1"
  measure = lambda scale: DigitsScore(
      {name: Proportion(value, 0, 1, 40) for name, value in zip(names, shares[scale], strict=True)}, {}, 1.0)
  best, tried = run.choose_scale(measure)
  assert best == 1.5
  assert tried["2.5"] == {"digit": 0.9, "retrieval@1": 0.6} and len(tried) == 5


def test_whole_clips_alone_are_learned():
  stages = (StageConfig("image", 0.25, 4, 1), StageConfig("video", 0.75, 2, 3))
  experiment = Experiment(
      model=PRESETS["digits"], data=DataConfig(mid_clip_fraction=0.3), train=TrainConfig(steps=10, stages=stages))
  whole = run.whole_clips(experiment)
  assert whole.train.stages == (StageConfig("video", 1.0, 2, 3),) and whole.data.mid_clip_fraction == 0


def test_an_unknown_paradigm_is_refused():
  with pytest.raises(ValueError, match="did you mean 'full_clip'"):
    run.measure({"paradigm": "fullclip", "output": "", "experiment": None})


def test_report_shows_what_is_done(tmp_path):
  trials = [Trial({"paradigm": name}, tmp_path / name, name, {}) for name in run.PARADIGMS]
  for i, trial in enumerate(trials[::2]):
    result = {"digit": 0.5 + i / 8, "guidance_scale": 1.5, "steps": 10.0, "parameters": 2e6, "train_flops": 3e12,
              "seconds_per_clip": 0.25}
    details = {"generated": {"digit": [0.5 + i / 8, 0.4, 0.7]}, "real": {"digit": [0.99, 0.98, 1.0]}}
    details |= {"quantized": {"digit": [0.97, 0.96, 0.98]}} if i else {}
    write_result(trial.folder, result, details)
  table, numbers, plot, sheet = write_report(trials, "About.", tmp_path)
  lines = table.read_text(encoding="utf-8").splitlines()
  assert lines[4] == "| | NOVA | quantised raster autoregression | real clips | real clips, quantised |"
  assert lines[6] == "| digit | 0.500 (0.400 - 0.700) | 0.625 (0.400 - 0.700) | 0.990 | 0.970 |"
  assert "| guidance_scale | 1.5 | 1.5 |  |  |" in lines
  assert "| train_flops | 3 TFLOP | 3 TFLOP |  |  |" in lines
  assert json.loads(numbers.read_text(encoding="utf-8"))["quantized"]["quantized"]["digit"][0] == 0.97
  assert Image.open(plot).size[0] > 900
  # Eight rows; two clips of three frames and a gap, 64 pixels each.
  assert Image.open(sheet).size == (7 * 68 + 4, 8 * (64 + 14 + 4) + 4)


def write_result(folder, result, details):
  folder.mkdir()
  write_atomically(folder / "result.json", json.dumps(result))
  write_atomically(folder / run.DETAILS, json.dumps(details))
  clips = np.zeros((40, 3, 16, 16, 1), np.uint8)
  np.savez(folder / run.EXAMPLES, prompts=["the digit one"] * 40, clips=clips)
