"""The released configs on their recommended pods: they load, and every stage's batch and parameter spreads evenly."""

import dataclasses
import importlib
import itertools
import math
from pathlib import Path

import pytest
from flax import nnx
from jax.sharding import AbstractMesh
from tables.read import read_table

from benchmarks.pods import (
  COLUMNS,
  DECODED,
  MODELS,
  SAVING_COLUMNS,
  Row,
  below_goal,
  rows,
  run_hours,
  saving_line,
  saving_rows,
  summary,
  table_lines,
)
from nova_jax.autoencoders import NETWORKS, make_network
from nova_jax.autoencoders.published import RELEASED, published_autoencoder
from nova_jax.checkpoints.published_configs import model_config
from nova_jax.config import PRESETS, REMAT, Experiment, MeshConfig
from nova_jax.models.nova import NOVA
from nova_jax.parallel.sharding import MESH_AXES, state_shardings
from nova_jax.tools.aot.pods import RECIPES, TOPOLOGIES
from nova_jax.tools.aot.topology import parse_topology
from nova_jax.train.stages import plan_stages
from nova_jax.utils.chips import GIB
from nova_jax.utils.fields import from_dict


def load(name, *args):
  return from_dict(Experiment, importlib.import_module(f"configs.{name}").get_config(*args))


def test_every_released_model_has_a_config():
  assert {name.replace("_", "-") for name in MODELS} == PRESETS.keys() - {"digits", "two_digits"}
  assert TOPOLOGIES.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", MODELS)
def test_configs_are_the_released_models(name):
  released, ours = model_config(read_table(name.replace("_", "-"))[0]), load(name).model
  assert dataclasses.replace(ours, dtype="float32", remat="none") == released
  assert ours.dtype == "bfloat16"
  assert load(name) == load(name, "v5e")


@pytest.mark.parametrize("chip", TOPOLOGIES)
@pytest.mark.parametrize("name", MODELS)
def test_batches_spread_over_pods(name, chip):
  experiment, mesh = load(name, chip), load(name, chip).mesh
  for slices in (1, 2):
    num_devices = slices * parse_topology(TOPOLOGIES[chip]).num_devices
    known = mesh.fsdp * mesh.tensor * mesh.context
    assert mesh.data == -1 and num_devices % (slices * known) == 0
    accumulation = max(experiment.train.accumulation // slices, 1)
    for stage in plan_stages(experiment.train):
      assert stage.cfg.batch_size // accumulation % (num_devices // (mesh.tensor * mesh.context)) == 0


@pytest.mark.parametrize("name", MODELS)
def test_parameters_divide_over_all_recipes(name):
  state = nnx.state(nnx.eval_shape(lambda: NOVA(load(name).model, rngs=nnx.Rngs(0))))
  for chip, how in RECIPES.items():
    sizes = {axis: getattr(how.mesh, axis) for axis in MESH_AXES}
    sizes["data"] = parse_topology(TOPOLOGIES[chip]).num_devices // -math.prod(sizes.values())
    state_shardings(AbstractMesh(tuple(sizes.values()), MESH_AXES), state)  # Refuses what doesn't divide.


def test_an_unknown_chip():
  with pytest.raises(ValueError, match="did you mean"):
    load(MODELS[0], "v5")


@pytest.mark.parametrize("name, table", [("sdxl1024", "sdxl"), ("sd512", "sd"), ("osp480", "opensora-plan")])
def test_released_autoencoders_are_those_of_the_tables(name, table):
  sizes = lambda config: nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: make_network(config, nnx.Rngs(0)))))
  shape = lambda config: [(path, value.shape) for path, value in sizes(config)]
  published = read_table(table)[0]
  assert shape(RELEASED[name]) == shape(published)
  config = NETWORKS[published["_class_name"]].config
  assert config.from_published(RELEASED[name]) == config.from_published(published)


def test_autoencoders_by_name(tmp_path):
  assert published_autoencoder("models/nova-d48w1024-osp480") == RELEASED["osp480"]
  (tmp_path / "vae").mkdir()
  (tmp_path / "vae/config.json").write_text('{"_class_name": "AutoencoderKL"}', encoding="utf-8")
  assert published_autoencoder(str(tmp_path)) == {"_class_name": "AutoencoderKL"}
  with pytest.raises(ValueError, match="neither"):
    published_autoencoder("nowhere")


def test_rows_of_the_tables_cover_all_models_chips_and_programs():
  listed, saving = rows(MODELS, list(TOPOLOGIES)), saving_rows(MODELS, list(TOPOLOGIES))
  one = {row[:2] + (row.what,) for row in listed if "*" not in row.topology}
  assert one == set(itertools.product(MODELS, TOPOLOGIES, ("train", "sample"))) | set(
      itertools.product(DECODED, ("v5e",), ("decode",)))
  assert len({row.model for row in listed if row.topology == "v5e:16x16*2" and row.what == "train"}) >= 2
  assert {row.remat for row in saving} == REMAT.keys()
  assert len({row.path(Path("folder")) for row in listed + saving}) == len(listed + saving)


def test_models_that_are_not_decoded_share_an_autoencoder_with_one_that_is():
  published = [published_autoencoder(load(model).autoencoder) for model in DECODED]
  assert all(published_autoencoder(load(model).autoencoder) in published for model in MODELS)


def test_table_lines_say_what_fits_and_what_does_not():
  report = {
      "program": "train image", "mesh": {"data": 16, "fsdp": 16, "tensor": 1}, "samples": 1024, "runs": 1, "fits": True,
      "compile_seconds": 61.2, "memory": {"peak": 3 * GIB, "limit": 15.75 * GIB},
      "roofline": {"seconds": 0.5, "bottleneck": "compute", "mfu": 0.66}, "flops": 7.0,
      "collectives": [{"bytes": 2e6}, {"bytes": 1e6}],
      "gathers_outside_layers": [], "resharded": ["x"]}
  (line,) = table_lines("nova", {"topology": "v5e:16x16", "machine_code": True, "programs": [report]})
  assert line == (
      "| nova | v5e:16x16 | data 16, fsdp 16 | train image * | 1024 | 3.00 / 15.75 | 500.0 | compute | 66% | 3 | 0 |")
  small = {name: report[name] for name in ("program", "mesh", "samples", "runs", "compile_seconds")}
  small |= {"fits": False, "memory": {"peak": 18 * GIB, "limit": 15.75 * GIB}}
  (line,) = table_lines("nova", {"topology": "v5e:16x16", "machine_code": False, "programs": [small]})
  assert "18.00 / 15.75, does not fit" in line and line.count("|") == len(COLUMNS) + 1
  (row,) = (row for row in saving_rows(MODELS, ["v5e"]) if row.remat == "none" and row.accumulation == 1)
  line = saving_line(row, {"programs": [small]})
  assert "18.00, does not fit" in line and line.count("|") == len(SAVING_COLUMNS) + 1


def test_the_summary_is_all_steps_of_all_stages():
  row = Row("nova_d48w1024_osp480", "v5e", "v5e:16x16", "train")
  programs = [{"roofline": {"seconds": seconds}} for seconds in (0.12, 0.6)]  # A quarter of 60,000 steps, and the rest.
  assert run_hours(row, {"programs": programs}) == pytest.approx((15000 * 0.12 + 45000 * 0.6) / 3600)
  other = row._replace(chip="v6e", topology="v6e:8x8")
  lines = summary({row: {"programs": programs}, other: {"programs": [programs[0], {}]}}).splitlines()
  assert lines[0] == "| model | steps | v5e:16x16 | v6e:8x8 |" and lines[2] == f"| {row.model} | 60,000 | 8.0 |  |"


def test_rows_below_the_goal_have_a_reason():
  row = Row("nova_d48w1024_osp480", "v6e", "v6e:8x8", "train")
  line = {"compute": 0.7, "memory": 0.84, "network": 0.1, "bottleneck": "memory", "seconds": 0.84, "mfu": 0.49}
  report = {"program": "train video", "flops": 59, "executed_flops": 100, "roofline": line}
  good = report | {"roofline": line | {"mfu": 0.61}}
  narrow = report | {"program": "train image", "roofline": line | {"bottleneck": "compute", "mfu": 0.59}}
  assert below_goal(row, {"programs": [good, report, narrow]}) == [
      "- nova_d48w1024_osp480, train video on v6e:8x8, 49%: products alone permit 59%; memory takes 840 ms, products "
      "700 ms.", "- nova_d48w1024_osp480, train image on v6e:8x8, 59%: products alone permit 59%."]


def test_a_row_is_an_experiment():
  row = Row("nova_d48w1024_sd512", "v5e", "v5e:2x2*2", "sample")
  assert row.path(Path("f")) == Path("f/nova_d48w1024_sd512-v5e-2x2-slices2-sample.json")
  assert row.experiment().mesh == MeshConfig(data=-1, fsdp=1)
  one, two = (row._replace(what="train", topology=f"v5e:2x2{slices}").experiment().train for slices in ("", "*2"))
  assert one.accumulation == 2 * two.accumulation == load(row.model).train.accumulation
  saving = Row(row.model, "v5e", "v5e:2x2", "train", "block", 4).experiment()
  assert (saving.model.remat, saving.train.accumulation) == ("block", 4)
