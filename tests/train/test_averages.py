"""Averages of several lengths: kept beside the one, from the same weights, and read by name."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
from absl import flags
from flax import nnx
from pipeline.test_pipeline import CARD, TINY
from train import toy_run

from nova_jax.autoencoders import make_autoencoder
from nova_jax.checkpoints.components import open_trained
from nova_jax.checkpoints.model_card import write_card
from nova_jax.checkpoints.store import Checkpointer, find, open_arrays
from nova_jax.cli.checkpoint_flags import define_weights
from nova_jax.config import EvalConfig, MeshConfig
from nova_jax.models.nova import NOVA
from nova_jax.parallel.sharding import make_mesh
from nova_jax.train.callbacks.evaluation import HeldOutLoss
from nova_jax.train.check import check
from nova_jax.train.program import TrainProgram

DECAYS = (0.5, 0.75)
CFG = EvalConfig(every=4, batches=2)


def train(workdir, *callbacks, **fields):
  experiment = toy_run.make_experiment(steps=12, save_every=4, **fields)
  experiment = dataclasses.replace(experiment, eval=CFG)
  toy_run.train(experiment, workdir, HeldOutLoss(CFG), *callbacks)
  lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
  evaluated = [{k: v for k, v in json.loads(line).items() if k.startswith("eval/")} for line in lines]
  return {name: array.read() for name, array in open_arrays(find(workdir / "checkpoints")).items()}, evaluated


@pytest.fixture(scope="module")
def several(tmp_path_factory):
  """Arrays and evaluations of a run with three averages."""
  return train(tmp_path_factory.mktemp("several"), ema_decays=DECAYS)


@pytest.mark.slow
def test_each_average_is_that_of_a_run_with_it_alone(several, tmp_path):
  arrays, evaluated = several
  further = {name for name in arrays if name.startswith("emas/")}
  for decay in (0.9, *DECAYS):
    alone, its_losses = train(tmp_path / str(decay), ema_decay=decay)
    start = "ema/" if decay == 0.9 else f"emas/{decay}/"
    assert arrays.keys() - further == alone.keys()
    for name, array in alone.items():  # The last bit depends on the whole program.
      np.testing.assert_allclose(arrays[name.replace("ema/", start)], array, rtol=1e-5, atol=1e-6, err_msg=name)
    loss = "eval/ema_loss" if decay == 0.9 else f"eval/ema_{decay}_loss"
    assert [line[loss] for line in evaluated] == pytest.approx([line["eval/ema_loss"] for line in its_losses], 1e-5)


def test_all_of_them_continue_after_a_restart(several, tmp_path):
  train(tmp_path, toy_run.Do(6, lambda: os.kill(os.getpid(), signal.SIGTERM)), ema_decays=DECAYS)
  arrays, evaluated = train(tmp_path, ema_decays=DECAYS)
  jax.tree.map(np.testing.assert_array_equal, arrays, several[0])
  assert evaluated == several[1]


def test_they_are_spread_like_the_parameters_and_start_where_these_do():
  experiment = toy_run.make_experiment(ema_decays=DECAYS)
  program = TrainProgram(toy_run.ToyTask(), experiment, make_mesh(MeshConfig(2, 4, 1)))
  state = program.init_state()
  assert any(leaf.sharding.spec for leaf in jax.tree.leaves(state.params))
  for average in state.emas.values():
    jax.tree.map(lambda e, p: np.testing.assert_array_equal(e, p), average, state.params)
    jax.tree.map(lambda e, p: e.sharding.is_equivalent_to(p.sharding, e.ndim) or pytest.fail(), average, state.params)


@pytest.mark.parametrize("fields, message", [
    ({"ema_decays": (0.9,)}, "train.ema_decays: expected each decay once, beside train.ema_decay=0.9"),
    ({"ema_decays": (1.0,)}, r"train.ema_decays\[0\]")])
def test_averages_that_make_no_sense_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    check(toy_run.make_experiment(**fields), toy_run.one_device(), make_autoencoder("pixels"))


def test_the_best_checkpoint_may_be_that_of_one_of_them():
  experiment = toy_run.make_experiment(ema_decays=DECAYS)
  for name, passes in (("eval/ema_0.5_loss", True), ("eval/ema_0.6_loss", False)):
    cfg = dataclasses.replace(experiment, eval=EvalConfig(every=1, best_metric=name))
    if passes:
      check(cfg, toy_run.one_device(), make_autoencoder("pixels"))
    else:
      with pytest.raises(ValueError, match="eval.best_metric: 'eval/ema_0.6_loss'"):
        check(cfg, toy_run.one_device(), make_autoencoder("pixels"))


@pytest.mark.slow
def test_weights_are_read_by_name(tmp_path):
  weights = {name: nnx.split(NOVA(TINY, rngs=nnx.Rngs(seed)), nnx.Param, ...) for seed, name in enumerate(
      ("params", "ema", "0.999"))}
  pure = {name: nnx.to_pure_dict(params) for name, (_, params, _) in weights.items()}
  buffers = nnx.to_pure_dict(weights["params"][2])
  with Checkpointer(tmp_path / "checkpoints", 1) as checkpoints:
    checkpoints.save(
        7, {"params": pure["params"], "ema": pure["ema"], "emas": {"0.999": pure["0.999"]}, "buffers": buffers}, {}, {})
  write_card(tmp_path, CARD)
  for which, name in (("params", "params"), ("ema", "ema"), ("ema_0.999", "0.999"), ("ema_0.9990", "0.999")):
    found = open_trained(tmp_path, CARD, which, None).state("float32")
    read = nnx.to_pure_dict(nnx.split_state(found, nnx.Param, ...)[0])
    jax.tree.map(np.testing.assert_array_equal, read, pure[name])
  with pytest.raises(ValueError, match="has no ema_0.99; known: ema, params, ema_0.999"):
    open_trained(tmp_path, CARD, "ema_0.99", None)
  for wrong in ("last", "ema_", "ema_x", "ema_2"):
    with pytest.raises(ValueError, match="weights: expected ema, params or ema_DECAY"):
      find(tmp_path / "checkpoints", wrong)


def test_the_flag_takes_any_of_them():
  values = flags.FlagValues()
  define_weights(values)
  values(["program", "--weights=ema_0.999"])
  assert values.weights == "ema_0.999"
