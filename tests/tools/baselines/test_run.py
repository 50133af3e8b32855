"""From a trained baseline to clips and scores."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from nova_jax.config import PRESETS, DataConfig, Experiment, StageConfig, TrainConfig
from nova_jax.evals.digits.one_digit import Proportion
from nova_jax.evals.digits.score import DigitsScore
from nova_jax.tools.baselines import run

EXPERIMENT = Experiment(
    model=PRESETS["digits"], data=DataConfig(num_records=200),
    train=TrainConfig(steps=10, stages=(StageConfig(batch_size=2, num_frames=4),)))


TWO_DIGITS = dataclasses.replace(
    EXPERIMENT, model=PRESETS["two_digits"], data=DataConfig(name="two_digits", num_records=200, canvas=32),
    train=TrainConfig(steps=10, stages=(StageConfig(batch_size=2, num_frames=8),)))


@pytest.mark.parametrize("experiment", [EXPERIMENT, TWO_DIGITS], ids=lambda experiment: experiment.data.name)
def test_baselines_are_as_large_as_nova(tmp_path, monkeypatch, experiment):
  monkeypatch.setattr(run, "fit_codebook", lambda tokens, num_codes, seed: np.zeros((num_codes, 16), np.float32))
  monkeypatch.setattr(run, "digit_records", lambda cfg, workdir: {
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
  assert shown["digit"].value > 0.7 and shown["direction"].value > 0.95
  assert shown["retrieval@1"].value < 1, "a codebook of 64 can't show all digits"


def test_two_digits_have_their_own_scores(tmp_path):
  asked = []

  def generate(prompts, seeds, scale):
    asked.append((prompts[0], list(seeds), scale))
    return np.zeros((len(prompts), 8, 32, 32, 1), np.uint8)

  trial = {"num_prompts": 40, "batch_size": 20, "captions": "plain", "task": "two_digits"}
  result = run.score(generate, 1.5, TWO_DIGITS, trial, tmp_path, seed=2)
  assert list(result.scores) == ["digits", "directions", "depth", "same_digits", "retrieval@last"]
  assert [(seeds, scale) for _, seeds, scale in asked] == [(list(range(80, 100)), 1.5), (list(range(100, 120)), 1.5)]
  assert "in front of" in asked[0][0]


@pytest.mark.parametrize("seed, num_prompts", [(0, 400), (0, 120), (3, 40), (2, 90)])
def test_scales_are_chosen_on_clips_of_other_seeds(seed, num_prompts):
  first = run.choice_seed(seed, num_prompts) * run.CHOICE_CLIPS
  assert (seed + 1) * num_prompts <= first < (seed + 1) * num_prompts + run.CHOICE_CLIPS


def test_the_best_scale_of_guidance_is_chosen_over_all_scores(capsys):
  shares = {1.0: (0.2, 0.9), 1.5: (0.8, 0.8), 2.5: (0.9, 0.6), 4.0: (1.0, 0.1)}
  names = "digit", "retrieval@1"
  measure = lambda scale: DigitsScore(
      {name: Proportion(value, 0, 1, 40) for name, value in zip(names, shares[scale], strict=True)}, {}, 1.0)
  assert run.choose_scale(measure) == 1.5
  assert "guidance 2.5: digit 0.900, retrieval@1 0.600" in capsys.readouterr().out


@pytest.mark.parametrize("name, task, data, frames, message", [
    ("nova", "two_digits", {}, (4,), "'two_digits' here, got 'moving_digits'"),
    ("full_clip", "digits", {"mid_clip_fraction": 0.3}, (4,), "expected 0, got 0.3"),
    ("quantized", "digits", {}, (1, 4), "expected \"first\", got 'any'"),
    ("one_block", "digits", {"single_frames": "first"}, (1, 4), r"got \[1, 4\] frames")])
def test_what_cannot_be_compared_is_refused(name, task, data, frames, message):
  stages = tuple(StageConfig(batch_size=2, num_frames=count) for count in frames)
  experiment = dataclasses.replace(
      EXPERIMENT, data=DataConfig(**data), train=dataclasses.replace(EXPERIMENT.train, stages=stages))
  with pytest.raises(ValueError, match=message):
    run.check_comparable(name, experiment, task)
