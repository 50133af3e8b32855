"""The real model, data and loop: a run continued from any checkpoint ends like one that never stopped."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers import SMALL_DIGITS

from nova_jax.checkpoints.store import find, open_arrays
from nova_jax.config import (
  DataConfig,
  Experiment,
  MeshConfig,
  OptimizerConfig,
  SampleConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.train.metrics import TIMINGS
from nova_jax.train.nova import train_nova

pytestmark = pytest.mark.slow

EXPERIMENT = Experiment(
    model=dataclasses.replace(SMALL_DIGITS, told_noise=True, canvas=True),
    data=DataConfig(num_records=40, num_frames=3, history_noise=0.3),
    train=TrainConfig(
        steps=6, stages=(StageConfig("image", 0.5, 8, 1), StageConfig("video", 0.5, 4, 3)), loss_repeat=1, log_every=2,
        rollout_fraction=0.5, sample_every=6, save_every=1, keep=10),
    optimizer=OptimizerConfig(name="muon", learning_rate=1e-3), mesh=MeshConfig(data=2, fsdp=2, tensor=-1),
    sample=SampleConfig(2, 2, 2.0))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run that never stopped, with a checkpoint after each step."""
  folder = tmp_path_factory.mktemp("runs")
  train_nova(EXPERIMENT, folder / "whole")
  return folder / "whole"


def metrics(folder):
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
  return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


# Within the image stage, at its end, within the video stage.
@pytest.mark.parametrize("step", [1, 3, 5])
def test_continuing_changes_nothing(finished, tmp_path, step):
  workdir = tmp_path / "continued"
  shutil.copytree(finished, workdir)
  for checkpoint in (workdir / "checkpoints").iterdir():
    if checkpoint.name.isdigit() and int(checkpoint.name) > step:
      shutil.rmtree(checkpoint)
  train_nova(EXPERIMENT, workdir)
  ours, expected = (open_arrays(find(folder / "checkpoints", step=6)) for folder in (workdir, finished))
  assert ours.keys() == expected.keys()
  for name in ours:
    assert np.array_equal(ours[name].read(), expected[name].read()), name
  assert metrics(workdir) == metrics(finished)


def test_a_run_leaves_pictures_and_logs(finished):
  assert (finished / "samples/step_000006.png").stat().st_size > 1000
  lines = metrics(finished)
  assert [line["step"] for line in lines] == [2, 4, 6]
  assert {"loss", "loss_t2i", "loss_i2i", "grad_norm", "learning_rate"} <= lines[-1].keys()
  assert list((finished / "tensorboard").glob("events*"))


def test_another_experiment_is_refused(finished):
  other = dataclasses.replace(EXPERIMENT, seed=1, optimizer=dataclasses.replace(EXPERIMENT.optimizer, b1=0.8))
  with pytest.raises(ValueError, match=r"optimizer.b1 was 0.9, now 0.8; seed was 0, now 1"):
    train_nova(other, finished)


def test_a_run_starts_from_another_model(finished, tmp_path):
  """Without a learning rate its weights stay what they were; another model, or none, is refused before it begins."""
  experiment = dataclasses.replace(
      EXPERIMENT, init=str(finished), data=dataclasses.replace(EXPERIMENT.data, history_noise=0.0),
      optimizer=OptimizerConfig(name="muon", learning_rate=0.0, weight_decay=0.0),
      train=dataclasses.replace(
          EXPERIMENT.train, steps=1, stages=EXPERIMENT.train.stages[:1], rollout_fraction=0.0, sample_every=0))
  for wrong in (
      dataclasses.replace(experiment, init=str(tmp_path / "none")),
      dataclasses.replace(experiment, model=dataclasses.replace(EXPERIMENT.model, mixer_rank=3))):
    with pytest.raises(ValueError, match="^init: .*(no folder|holds another model: model.mixer_rank)"):
      train_nova(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
  train_nova(experiment, tmp_path / "run")
  started, given = open_arrays(find(tmp_path / "run/checkpoints")), open_arrays(find(finished / "checkpoints"))
  for name in started:
    item, _, path = name.partition("/")
    if item in ("params", "ema"):
      np.testing.assert_allclose(started[name].read(), given[f"ema/{path}"].read(), rtol=1e-6, err_msg=name)
