"""The command that compares paradigms, with a stand-in for their training."""

import json

import pytest
from launched import launch

# Runs the command with a stand-in for the process of a paradigm.
DRIVER = """
import sys
from benchmarks import paradigms
from nova_jax import cli
paradigms.COMMAND = (sys.executable, sys.argv.pop(1))
cli.Command(paradigms.main, paradigms.define_flags, required=("output",)).run()
"""
# Fails for the paradigm that the environment names.
STAND_IN = """
import json, os, sys
import numpy as np
task = json.load(open(sys.argv[1]))
if task["paradigm"] == os.environ.get("FAILS"):
  sys.exit("error: no such luck")
experiment = task["experiment"]
result = {"digit": 0.5, "guidance_scale": 1.5, "steps": experiment["train"]["steps"], "parameters": 2e6,
          "train_flops": experiment["optimizer"]["warmup_steps"], "seconds_per_clip": experiment["train"]["ema_decay"]}
details = {"generated": {"digit": [0.5, 0.4, 0.6]}, "real": {"digit": [0.99, 0.98, 1.0]}}
np.savez(task["output"] + "/examples.npz", prompts=["the digit one"] * 40, clips=np.zeros((40, 3, 16, 16, 1), np.uint8))
json.dump(details, open(task["output"] + "/details.json", "w"))
json.dump(result, open(task["result"], "w"))
"""


def compare(tmp_path, *flags, **environment):
  for name, text in (("driver.py", DRIVER), ("stand_in.py", STAND_IN)):
    (tmp_path / name).write_text(text, encoding="utf-8")
  return launch(
      tmp_path / "driver.py", tmp_path / "stand_in.py", "--output", tmp_path / "out", *flags, **environment)


@pytest.mark.slow
def test_what_fails_is_named_and_the_same_command_adds_it(tmp_path):
  first = compare(tmp_path, "--share", "0.5", FAILS="quantized")
  assert first.returncode == 1 and first.stderr.count("\n") == 1
  assert first.stderr.startswith("error: quantized: no such luck; the same command tries again")
  assert "| | NOVA | NOVA in one block | full-clip diffusion | real clips |" in first.stdout
  again = compare(tmp_path, "--share", "0.5")
  assert again.returncode == 0 and again.stdout.count("done before") == 3
  results = json.loads((tmp_path / "out/paradigms.json").read_text(encoding="utf-8"))
  assert list(results) == ["nova", "one_block", "quantized", "full_clip"]
  # Half of the demo's 3600 steps and 60 of warm-up; the average forgets in half as many steps.
  nova = results["nova"]
  assert (nova["steps"], nova["train_flops"], round(nova["seconds_per_clip"], 3)) == (1800, 30, 0.99)


def test_too_small_a_share_is_refused(tmp_path):
  run = compare(tmp_path, "--share", "0")
  assert (run.returncode, run.stderr) == (2, "error: --share: 0.0 leaves 0 steps of 3600; give more\n")
