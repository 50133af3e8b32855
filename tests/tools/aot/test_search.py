"""What the search tries and in which order; the compiler is replaced by a rule of what fits."""

import dataclasses
import itertools
import types

import pytest

from nova_jax.config import PRESETS, REMAT, Experiment, MeshConfig, StageConfig, TrainConfig
from nova_jax.tools.aot import search as search_lib
from nova_jax.tools.aot.search import REMAT_BY_COST, candidates, cheapest_change, search

EXPERIMENT = Experiment(
    model=search_lib.with_remat(Experiment(model=PRESETS["digits"]), "dots").model,
    train=TrainConfig(stages=(StageConfig(name="image", batch_size=64), StageConfig(name="video", batch_size=32))),
    mesh=MeshConfig(data=1, fsdp=8))
ONE_SLICE = types.SimpleNamespace(num_slices=1)
KEPT = {"none": 8, "dots": 4, "mlp": 3, "block": 2, "offload": 1}


def memory(experiment):
  """Return a made-up peak: what is kept of the largest stage's micro-batch."""
  batch = max(stage.batch_size for stage in experiment.train.stages)
  return KEPT[experiment.model.remat] * batch / experiment.train.accumulation / experiment.mesh.tensor


@pytest.fixture
def compiler(monkeypatch):
  """Replace compilation; return a function that sets the limit."""
  tried, limit = [], [0.0]

  def compile_all(experiment, topology, what, say, options, stop=False, preset="exact"):
    if any(stage.batch_size % 8 for stage in experiment.train.stages):
      raise ValueError("does not spread")
    tried.append(experiment)
    return [{"fits": memory(experiment) <= limit[0], "memory": {"peak": memory(experiment)}, "samples": 1,
             "roofline": {"seconds": 1}}]

  monkeypatch.setattr(search_lib, "compile_all", compile_all)
  return lambda value: (limit.__setitem__(0, value), tried)[1]


def test_all_policies_have_a_cost():
  assert set(REMAT_BY_COST) == set(REMAT)


def test_changes_come_in_order_of_their_cost():
  names = [flags.split("--")[-1].split("=")[0] for flags, _ in candidates(EXPERIMENT, "train")]
  groups = [name for name, _ in itertools.groupby(names)]
  assert groups == [
      "config.train.accumulation", "config.model.remat", "config.train.accumulation", "config.mesh.tensor",
      "config.train.stages[1].batch_size"]
  assert all("mesh" in flags for flags, _ in candidates(EXPERIMENT, "sample"))
  assert not list(candidates(EXPERIMENT, "decode"))


@pytest.mark.parametrize("what", ["train", "sample"])
def test_replicas_share_their_parameters_out_first(what):
  spread = dataclasses.replace(EXPERIMENT, mesh=MeshConfig(data=-1, fsdp=1))
  flags, first = next(candidates(spread, what, num_slices=2))
  assert flags == "--config.mesh.data=2 --config.mesh.fsdp=-1" and first.mesh == MeshConfig(data=2, fsdp=-1)
  assert "data" not in next(candidates(dataclasses.replace(spread, mesh=MeshConfig(2, -1)), what, num_slices=2))[0]


@pytest.mark.parametrize("limit, expected", [
    (128, "--config.train.accumulation=2"), (64, "--config.model.remat=offload"),
    (32, "--config.model.remat=offload --config.train.accumulation=2"),
    (8, "--config.model.remat=offload --config.train.accumulation=8")])
def test_the_first_that_fits_is_advised(compiler, limit, expected):
  compiler(limit)
  flags, reports = cheapest_change(EXPERIMENT, ONE_SLICE, "train", lambda text: None)
  assert flags == expected and reports[0]["fits"]


def test_nothing_fits(compiler):
  compiler(0)
  assert cheapest_change(EXPERIMENT, ONE_SLICE, "train", lambda text: None) is None


def test_search_finds_the_lightest_remat_and_the_largest_batch(compiler):
  compiler(256)
  found = search(EXPERIMENT, None, lambda text: None)
  assert found["lightest_remat"]["remat"] == "dots" and found["lightest_remat"]["batch"] == [64, 32]
  assert found["largest_batch"]["remat"] == "block" and found["largest_batch"]["batch"] == [128, 64]
  assert [row["fits"] for row in found["tried"]] == [False, True, True, True, False]
  assert not found["batch_limit"]
  compiler(1e9)
  assert search(EXPERIMENT, None, lambda text: None)["batch_limit"]


def test_search_halves_a_batch_that_is_too_large(compiler):
  compiler(64)
  found = search(EXPERIMENT, None, lambda text: None)
  assert found["lightest_remat"]["remat"] == "offload" and found["largest_batch"]["batch"] == [32, 16]
