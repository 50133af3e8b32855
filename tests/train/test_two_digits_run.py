import dataclasses

import pytest
from train import toy_run

from nova_jax.autoencoders import PixelAutoencoder
from nova_jax.config import Experiment, StageConfig
from nova_jax.configs import two_digits
from nova_jax.evals.digits.score import score_digits
from nova_jax.evals.digits.two_digits import SCORES
from nova_jax.pipeline import Pipeline
from nova_jax.train.check import check
from nova_jax.train.nova import train_nova
from nova_jax.utils.fields import from_dict

EXPERIMENT = from_dict(Experiment, two_digits.get_config())


def _tiny():
  model = dataclasses.replace(
      EXPERIMENT.model, width=32, num_heads=2, temporal_depth=1, spatial_depth=2, denoiser_depth=1, denoiser_width=32)
  train = dataclasses.replace(
      EXPERIMENT.train, steps=2, stages=(StageConfig("video", 1.0, 4, 8),), log_every=1, sample_every=0,
      trackers=("jsonl",))
  return dataclasses.replace(
      EXPERIMENT, model=model, train=train, data=dataclasses.replace(EXPERIMENT.data, num_records=8),
      optimizer=dataclasses.replace(EXPERIMENT.optimizer, warmup_steps=1))


@pytest.mark.slow  # Compiles a training step and the sampler.
def test_a_tiny_model_learns_and_is_scored(tmp_path):
  train_nova(_tiny(), tmp_path / "run", mesh=toy_run.one_device())
  pipe = Pipeline.load(tmp_path / "run")
  assert not pipe.text_encoder.notes("the numeral 3 is moving left over the numeral 7 moving up")
  assert "bird" in pipe.text_encoder.notes("the bird moves left")[0]
  result = score_digits(
      pipe, tmp_path, num_prompts=2, task="two_digits", num_inference_steps=1, num_diffusion_steps=1,
      guidance_scale=1.0)
  assert tuple(result.scores) == tuple(result.real) == SCORES and (tmp_path / "sheet.png").is_file()


def test_a_label_says_nothing_of_two_digits():
  model = dataclasses.replace(EXPERIMENT.model, text_dim=None, num_classes=10)
  with pytest.raises(ValueError, match="model.num_classes: a label says nothing of two digits"):
    check(dataclasses.replace(EXPERIMENT, model=model), toy_run.one_device(), PixelAutoencoder())
