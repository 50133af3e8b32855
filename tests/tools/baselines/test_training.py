"""Baselines are trained: they learn, continue where they were, and cost what NOVA costs."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from tools.baselines.tiny import FULL_CLIP, NOVA, NUM_FRAMES, ONE_BLOCK, QUANTIZED

from nova_jax.autoencoders import make_autoencoder
from nova_jax.config import DataConfig, Experiment, MeshConfig, OptimizerConfig, StageConfig, TrainConfig
from nova_jax.data.sources import DigitData
from nova_jax.parallel.sharding import make_mesh
from nova_jax.text import make_text_encoder
from nova_jax.tools.baselines.run import nova_flops
from nova_jax.tools.baselines.task import equal_compute, total_flops
from nova_jax.train.callbacks import Callback, SaveCheckpoints
from nova_jax.train.flops import train_flops
from nova_jax.train.masking import draw_num_visible
from nova_jax.train.trainer import Trainer

NUM_STEPS = 24
EXPERIMENT = Experiment(
    model=NOVA, data=DataConfig(num_frames=NUM_FRAMES), mesh=MeshConfig(1, 1, 1),
    train=TrainConfig(
        steps=NUM_STEPS, stages=(StageConfig("video", 1.0, 8, NUM_FRAMES),), ema_decay=0.9, save_every=5, log_every=4),
    optimizer=OptimizerConfig(name="muon", learning_rate=1e-2))


def make_data():
  rng = np.random.default_rng(0)
  records = [
      {"video": rng.integers(0, 256, (NUM_FRAMES, 8, 8, 1), np.uint8), "caption": f"number {i}".encode(), "digit": i,
       "wall": NUM_FRAMES, "turn": NUM_FRAMES} for i in range(4)]
  return DigitData(
      {"train": records, "test": records}, EXPERIMENT, make_autoencoder("pixels"), make_text_encoder("words", NOVA))


def train(baseline, workdir, *callbacks):
  """Train; return the averaged model."""
  trainer = Trainer(
      baseline, make_data(), EXPERIMENT, workdir, [SaveCheckpoints(EXPERIMENT.train.save_every), *callbacks],
      mesh=make_mesh(EXPERIMENT.mesh, jax.devices()[:1]))
  trainer.run()
  return trainer.average()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run: its folder and its model."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, train(QUANTIZED, workdir)


def losses(workdir):
  return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_codes_of_a_few_clips_are_learned(whole):
  found = losses(whole[0])
  assert found[0] == pytest.approx(np.log(10), abs=0.5)  # Of ten codes none is likelier at the start.
  assert found[-1] < 0.5 * found[0]


class Steps(Callback):
  """Notes the steps, and dies after one of them."""

  def __init__(self, dies_after=None):
    self.dies_after, self.steps = dies_after, []

  def after_step(self, trainer, metrics):
    self.steps.append(trainer.step)
    if trainer.step == self.dies_after:
      raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_that_was_killed_continues_with_the_same_numbers(whole, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    train(QUANTIZED, tmp_path, Steps(dies_after=13))
  again = Steps()
  model = train(QUANTIZED, tmp_path, again)
  assert again.steps == list(range(11, NUM_STEPS + 1))
  jax.tree.map(np.testing.assert_array_equal, nnx.state(model), nnx.state(whole[1]))
  assert losses(tmp_path) == losses(whole[0])


def test_a_finished_run_is_read_and_not_trained_again(whole):
  again = Steps()
  model = train(QUANTIZED, whole[0], again)
  assert not again.steps
  jax.tree.map(np.testing.assert_array_equal, nnx.state(model), nnx.state(whole[1]))


@pytest.mark.slow
@pytest.mark.parametrize("baseline", [FULL_CLIP, ONE_BLOCK], ids=["full_clip", "one_block"])
def test_diffusion_of_a_few_clips_is_learned(baseline, tmp_path):
  train(baseline, tmp_path)
  found = losses(tmp_path)
  assert np.mean(found[-2:]) < 0.8 * found[0]


def test_baselines_get_the_steps_that_cost_what_nova_costs():
  stages = (StageConfig("image", 0.25, 4, 1), StageConfig("video", 0.75, 2, 3))
  experiment = Experiment(model=NOVA, train=TrainConfig(steps=200, stages=stages))
  budget = nova_flops(experiment)
  visible = [draw_num_visible(0, step, 4, (0.7, 1.0)) for step in range(200)]
  costs = [train_flops(NOVA, 4, 1, count, 4) for count in visible[:50]]
  costs += [train_flops(NOVA, 2, 3, count, 4) for count in visible[50:]]
  assert budget == pytest.approx(sum(costs))
  for baseline in (QUANTIZED, FULL_CLIP):
    theirs = equal_compute(baseline, experiment, budget)
    assert theirs.train.stages == stages
    assert total_flops(baseline, theirs) == pytest.approx(budget, abs=baseline.step_flops(2, 3))
