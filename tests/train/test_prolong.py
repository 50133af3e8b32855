"""A run that is prolonged is, bit for bit, the longer run."""

import dataclasses
import shutil

import pytest
from train import toy_run
from train.test_loop import assert_same_run

from nova_jax.checkpoints.store import finished_steps
from nova_jax.config import OptimizerConfig, StageConfig
from nova_jax.train.workdir.prolong import branch_step, same_steps

STAGES = (StageConfig("video", 1.0, 4, 4),)


def make_experiment(steps, stages=STAGES, **optimizer):
  fields = {"schedule": "wsd", "warmup_steps": 3, "decay_fraction": 0.25, "learning_rate": 1e-2} | optimizer
  experiment = toy_run.make_experiment(steps=steps, stages=stages, save_every=8, keep=1)
  return dataclasses.replace(experiment, optimizer=OptimizerConfig(name="muon", **fields))


@pytest.mark.slow
def test_a_finished_run_continues_from_where_its_rate_began_to_fall(tmp_path):
  toy_run.train(make_experiment(20), tmp_path / "prolonged")
  checkpoints = tmp_path / "prolonged" / "checkpoints"
  assert finished_steps(checkpoints) == [15, 20]
  with pytest.raises(ValueError, match="train.steps was 20, now 40, .*to continue from step 15, remove"):
    toy_run.train(make_experiment(40), tmp_path / "prolonged")
  shutil.rmtree(checkpoints / "20")
  toy_run.train(make_experiment(40), tmp_path / "prolonged")
  toy_run.train(make_experiment(40), tmp_path / "long")
  assert_same_run(tmp_path / "prolonged", tmp_path / "long")


def test_which_steps_are_those_of_a_longer_run():
  short, long = make_experiment(20), make_experiment(40)
  assert same_steps(short, long, 15) and same_steps(long, short, 15)
  assert same_steps(short, long, 16)  # The first step of the decay still has the whole rate.
  assert not same_steps(short, long, 17)
  assert same_steps(short, make_experiment(40, decay_fraction=0.1), 15)
  constant = [make_experiment(steps, schedule="constant") for steps in (20, 40)]
  assert same_steps(*constant, 20) and branch_step(constant[0]) is None
  assert not same_steps(*(make_experiment(steps, schedule="cosine") for steps in (20, 40)), 10)
  # A second stage would begin elsewhere.
  two = (StageConfig("image", 0.5, 8, 1), StageConfig("video", 0.5, 4, 4))
  short, long = make_experiment(20, two), make_experiment(40, two)
  assert branch_step(short) is None and not same_steps(short, long, 12)
  assert branch_step(make_experiment(20)) == 15
