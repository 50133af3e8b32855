"""One real compilation for four v5e chips, by the launcher in a process of its own: libtpu must not be loaded here."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from commands import run

CONFIG = """
from nova_jax.config import Experiment, ModelConfig, StageConfig, TrainConfig
from nova_jax.utils.fields import to_config_dict

def get_config():
  return to_config_dict(Experiment(
      model=ModelConfig(
          latent_dim=4, latent_size=(32, 32), patch_size=2, width=256, num_heads=4, temporal_depth=2, spatial_depth=4,
          denoiser_depth=2, denoiser_width=256, num_classes=10, dtype="bfloat16", remat="block"),
      train=TrainConfig(stages=(StageConfig(name="image", batch_size=8),), loss_repeat=2)))
"""


def launch(path, *args):
  # Programs for TPUs can be kept, but not read where there is none.
  environment = {
      name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
  command = [sys.executable, "-m", "launch.compile", f"--config={path}", *args]
  return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "tiny.py"
  path.write_text(CONFIG, encoding="utf-8")
  return path


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ,
    reason="libtpu is not installed: make .venv/libtpu")


@pytest.mark.slow
@needs_libtpu
def test_a_training_step_compiles_for_a_pod(config, tmp_path):
  done = launch(config, "--topology=v5e:2x2", "--mesh=fsdp=4", f"--json={tmp_path / 'out.json'}")
  assert done.returncode == 0, done.stderr
  assert done.stderr == "", "the compiler's own messages reached the terminal"
  (report,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["programs"]
  size = report["memory"]
  assert report["fits"] and 0 < size["parameters"] < size["peak"] < size["limit"]
  assert size["optimizer"] == pytest.approx(2 * size["parameters"], rel=0.01)  # Two moments.
  # Weights are gathered layer by layer, where they are used, and the state comes back as it came.
  assert any(row["kind"] == "all-gather" and row["axes"] == "fsdp" for row in report["collectives"])
  assert report["gathers_outside_layers"] == [] and report["resharded"] == []
  line = report["roofline"]
  assert line["seconds"] == max(line["compute"], line["memory"], line["network"]) > 0
  assert 0 < line["mfu"] <= 1


@pytest.mark.slow
@needs_libtpu
def test_the_plan_says_what_the_whole_program_says(config, tmp_path):
  reports = []
  for number, args in enumerate(([], ["--nomachine_code"])):
    path = tmp_path / f"{number}.json"
    done = launch(config, "--topology=v5e:2x2", "--mesh=fsdp=4", f"--json={path}", *args)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    reports += json.loads(path.read_text(encoding="utf-8"))["programs"]
  whole, plan = reports
  assert plan["roofline"].pop("bottleneck") == whole["roofline"].pop("bottleneck")
  assert plan["roofline"] == pytest.approx(whole["roofline"], rel=1e-6) and plan["collectives"] == whole["collectives"]
  # The code comes on top, and what it needs for itself.
  assert 0 <= whole["memory"]["peak"] - whole["memory"]["code"] - plan["memory"]["peak"] < 2**24


@pytest.mark.slow
@needs_libtpu
def test_the_plan_of_what_does_not_fit_says_how_much_it_needs(config):
  done = launch(config, "--topology=v5e:1x1", "--mesh=fsdp=1", "--nomachine_code",
                "--config.train.stages[0].batch_size=8192", "--config.model.remat=offload")
  assert done.returncode == 1 and "DOES NOT FIT" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@needs_libtpu
def test_a_generation_compiles_for_one_chip(config, tmp_path):
  done = launch(config, "--topology=v5e:1x1", "--what=sample", f"--json={tmp_path / 'out.json'}")
  assert done.returncode == 0, done.stderr
  reports = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["programs"]
  assert [report["program"] for report in reports] == ["sample text", "sample first frame", "sample set"]
  assert all(report["fits"] and report["collectives"] == [] for report in reports)


@pytest.mark.parametrize("args, message", [
    (["--topology=v5e"], "--topology: expected CHIP:AxB"),
    (["--topology=v5e:2x2", "--mesh=foo=4"], "--mesh: 'foo' is not an axis"),
    (["--topology=v5e:2x2", "--what=decode", "--search"], "--search is for training"),
    (["--topology=v5e:2x2", "--preset=fast"], "--preset is for --what=sample, got --what=train"),
    (["--topology=v5e:2x2", "--xla=xla_tpu_some_option"], "--xla: expected NAME=VALUE"),
    (["--topology=v5e:2x2", "--xla=--xla_one=1"], "--xla: expected NAME=VALUE, such as xla_tpu_scoped"),
    (["--topology=v5e:2x2", "--xla=xla_dump_to=dumps"], "--xla: xla_dump_to is an option that this command sets"),
    (["--topology=v5e:2x2", "--xla=xla_one=1", "--xla=xla_one=2"], "--xla: xla_one is there twice, as 1 and 2"),
    (["--topology=v5e:2x2", "--json=/nowhere/out.json"], "--json: there is no folder '/nowhere' to write to"),
])
def test_bad_input_is_one_line(config, args, message):
  done = run("compile", f"--config={config}", *args)
  assert done.returncode == 2 and done.stdout == ""
  assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("args, message", [
    (["--topology=v5e:3x5"], "the TPU compiler refuses v5e:3x5"),
    (["--topology=v5e:2x2", "--mesh=fsdp=3"], "needs 3 devices, there are 4"),
    (["--topology=v5e:2x2", "--config.train.stages[0].batch_size=6"], "does not spread over 4 devices"),
    (["--topology=v5e:2x2", "--what=decode"], "'pixels' has no network"),
    (["--topology=v5e:2x2", "--nomachine_code", "--xla=xla_no_such=1"], "the compiler knows no option 'xla_no_such'"),
])
def test_what_does_not_go_together_is_one_line(config, args, message):
  done = launch(config, *args)
  assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
