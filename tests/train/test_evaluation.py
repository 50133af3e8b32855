"""Losses on held-out records: the same numbers whenever they are computed, and training does not notice."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
from data.latent_caches import AUTOENCODER, MODEL, make_cache, make_record, numbers
from train import toy_run

from nova_jax.autoencoders import make_autoencoder
from nova_jax.checkpoints.store import find, open_arrays
from nova_jax.config import DataConfig, EvalConfig, MeshConfig, OptimizerConfig, SourceConfig, StageConfig
from nova_jax.data.loader import Loader
from nova_jax.data.sources import CacheData, needs_text_encoder
from nova_jax.parallel.sharding import make_mesh
from nova_jax.train.callbacks.evaluation import HeldOutLoss
from nova_jax.train.check import check
from nova_jax.train.metrics import TIMINGS
from nova_jax.train.nova import NovaTask
from nova_jax.train.trainer import Trainer

STAGE = StageConfig("video", 1.0, 8, 3)


def train(workdir, *callbacks, every=4, mesh=None, **fields):
  cfg = EvalConfig(every=every, batches=3)
  experiment = dataclasses.replace(toy_run.make_experiment(**fields), eval=cfg)
  return toy_run.train(experiment, workdir, HeldOutLoss(cfg), *callbacks, mesh=mesh)


def results(workdir):
  """Return the lines of a run, the evaluations by step, and the arrays of its newest checkpoint."""
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
  lines = [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]
  evaluated = {
      line["step"]: {name: value for name, value in line.items() if name.startswith("eval/")} for line in lines}
  rest = [{name: value for name, value in line.items() if not name.startswith("eval/")} for line in lines]
  arrays = {name: array.read() for name, array in open_arrays(find(workdir / "checkpoints")).items()}
  return rest, {step: values for step, values in evaluated.items() if values}, arrays


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of an uninterrupted run that is evaluated every four steps, and its trainer."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, train(workdir)


@pytest.mark.slow
def test_evaluation_does_not_depend_on_its_steps_and_training_not_on_it(whole, tmp_path):
  lines, evaluated, arrays = results(whole[0])
  assert list(evaluated) == list(range(4, 41, 4))
  assert all(values.keys() == {"eval/loss", "eval/ema_loss"} for values in evaluated.values())
  assert len({values["eval/ema_loss"] for values in evaluated.values()}) == 10
  for every in (0, 12):
    train(tmp_path / str(every), every=every)
    other_lines, other, other_arrays = results(tmp_path / str(every))
    assert other_lines == lines
    jax.tree.map(np.testing.assert_array_equal, other_arrays, arrays)
    assert other == {step: evaluated[step] for step in ((12, 24, 36, 40) if every else ())}


def test_the_same_weights_have_the_same_losses_at_any_step(tmp_path):
  cfg = EvalConfig(every=1, batches=3)
  experiment = toy_run.make_experiment(steps=3, stages=(StageConfig("video", 1.0, 4, 4),), log_every=1)
  experiment = dataclasses.replace(
      experiment, eval=cfg, optimizer=OptimizerConfig(learning_rate=0.0, weight_decay=0.0))
  toy_run.train(experiment, tmp_path, HeldOutLoss(cfg))
  assert len({values["eval/loss"] for values in results(tmp_path)[1].values()}) == 1


def test_evaluation_compiles_once_a_shape(whole):
  eval_steps = whole[1].program.eval_steps
  assert [step.run._cache_size() for step in eval_steps.values()] == [1, 1]  # Images, then clips.


def test_a_restart_gives_the_same_evaluations(whole, tmp_path):
  for stop in (5, 20):
    train(tmp_path, toy_run.Do(stop, lambda: os.kill(os.getpid(), signal.SIGTERM)))
  train(tmp_path)
  assert results(tmp_path)[:2] == results(whole[0])[:2]


def test_a_mesh_evaluates_like_one_device(tmp_path):
  fields = {"steps": 2, "log_every": 1, "stages": (StageConfig("video", 1.0, 8, 4),)}
  train(tmp_path / "one", every=1, **fields)
  train(tmp_path / "many", every=1, mesh=make_mesh(MeshConfig(2, 4, 1)), **fields)
  one, many = (results(tmp_path / name)[1] for name in ("one", "many"))
  assert one.keys() == many.keys() == {1, 2}
  for step in one:
    assert many[step] == pytest.approx(one[step], rel=1e-5)


def open_data(tmp_path, fraction, seed=0, buckets=((4, 4), (8, 4))):
  """Return an experiment on buckets of clips, of which a fraction is held out, and its data."""
  if not (tmp_path / "cache").exists():
    make_cache(tmp_path / "cache", [make_record(i, size=(8, 4) if i % 3 == 0 else (4, 4)) for i in range(30)])
  data = DataConfig(name="caches", sources=(SourceConfig(str(tmp_path / "cache")),), buckets=buckets)
  experiment = dataclasses.replace(
      toy_run.make_experiment(), model=MODEL, text_encoder="made-up", data=data, seed=seed,
      eval=EvalConfig(every=1, fraction=fraction))
  return experiment, CacheData(experiment, AUTOENCODER, None)


def records(feed):
  loader = Loader(feed, batch_size=8)
  try:
    return {number for _ in range(12) for number in numbers(next(loader))}
  finally:
    loader.close()


def test_held_out_records_are_never_learned_from(tmp_path):
  _, data = open_data(tmp_path, 0.2)
  held_out = records(data.held_out(STAGE))
  assert len(held_out) == 2 + 4  # A fifth of each bucket.
  assert records(data.feed(STAGE)) == set(range(30)) - held_out
  # Other stages and seeds hold out the same ones.
  _, other = open_data(tmp_path, 0.2, seed=7)
  image = StageConfig("image", 1.0, 8, 1)
  assert records(other.held_out(image)) == held_out
  assert not records(other.feed(image)) & held_out
  # Without a fraction all are learned.
  assert records(open_data(tmp_path, 0.0)[1].feed(STAGE)) == set(range(30))


def test_caches_of_their_own_are_held_out(tmp_path):
  experiment, _ = open_data(tmp_path, 0.0)
  make_cache(tmp_path / "own", [make_record(i) for i in range(40, 44)], text_encoder=None)
  own = dataclasses.replace(experiment, eval=EvalConfig(every=1, sources=(SourceConfig(str(tmp_path / "own")),)))
  assert needs_text_encoder(own) and not needs_text_encoder(experiment)
  make_cache(tmp_path / "embedded", [make_record(i) for i in range(40, 44)])
  own = dataclasses.replace(experiment, eval=EvalConfig(every=1, sources=(SourceConfig(str(tmp_path / "embedded")),)))
  data = CacheData(own, AUTOENCODER, None)
  assert records(data.held_out(STAGE)) == {40, 41, 42, 43} and records(data.feed(STAGE)) == set(range(30))
  same = dataclasses.replace(experiment, eval=EvalConfig(every=1, sources=experiment.data.sources))
  with pytest.raises(ValueError, match="eval.sources: .*cache has the records of a cache that is learned from"):
    CacheData(same, AUTOENCODER, None)


def test_a_bucket_of_one_record_is_learned_from(tmp_path):
  make_cache(tmp_path / "cache", [make_record(0)])
  _, data = open_data(tmp_path, 0.5, buckets=())
  assert records(data.feed(STAGE)) == {0}
  with pytest.raises(ValueError, match="eval.fraction: no record can be held out"):
    data.held_out(STAGE)


@pytest.mark.parametrize("name, cfg, message", [
    ("caches", EvalConfig(every=5), "eval.every: there are no held-out records"),
    ("caches", EvalConfig(fraction=0.1, sources=(SourceConfig("a"),)), "eval.sources: .*alternative to eval.fraction"),
    ("moving_digits", EvalConfig(fraction=0.1), "eval.fraction: the digits have a test split"),
    ("moving_digits", EvalConfig(sources=(SourceConfig("a"),)), "eval.sources: the digits have a test split")])
def test_held_out_records_that_make_no_sense_are_refused(name, cfg, message):
  experiment = toy_run.make_experiment()
  data = dataclasses.replace(experiment.data, name=name)
  with pytest.raises(ValueError, match=message):
    check(dataclasses.replace(experiment, eval=cfg, data=data), toy_run.one_device(), make_autoencoder("pixels"))


@pytest.mark.slow
def test_novas_losses_are_told_apart_by_frame_and_share_one_program(tmp_path):
  cfg = EvalConfig(every=1, batches=4)
  experiment = toy_run.make_experiment(
      steps=1, stages=(StageConfig("video", 1.0, 2, 2),), visible_sizes=3, log_every=1, loss_repeat=1)
  model = dataclasses.replace(
      experiment.model, width=32, num_heads=2, temporal_depth=1, spatial_depth=2, denoiser_depth=1, denoiser_width=16)
  experiment = dataclasses.replace(experiment, model=model, eval=cfg)
  task = NovaTask.from_experiment(experiment)
  visible, sizes = zip(*map(task.eval_inputs, range(32)), strict=True)
  assert len(set(sizes)) == 1 and len({int(number) for number in visible}) > 1
  callback = HeldOutLoss(cfg)
  trainer = Trainer(
      task, toy_run.make_data(experiment), experiment, tmp_path, [callback], mesh=toy_run.one_device())
  trainer.run()
  losses = callback.losses(trainer)
  names = {f"eval/{which}{name}" for which in ("", "ema_") for name in ("loss", "loss_t2i", "loss_i2i")}
  assert losses.keys() == names and json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8")).items() > (
      losses.items())
  assert losses["eval/loss"] == pytest.approx(losses["eval/loss_t2i"] + losses["eval/loss_i2i"])
  (step,) = trainer.program.eval_steps.values()
  assert step.run._cache_size() == 1
