"""Kernels are compiled with the machine code alone, which plans leave out: here for every chip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools.aot.compile_kernels import HOSTS, KERNELS
from tools.aot.test_compile import needs_libtpu

from nova_jax.tools.aot.pods import TOPOLOGIES

ROOT = Path(__file__).resolve().parents[3]


def test_every_chip_is_tried():
  assert HOSTS.keys() == TOPOLOGIES.keys()


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("chip", HOSTS)
def test_attention_compiles_for_every_length_and_mask(chip):
  environment = {name: value for name, value in os.environ.items() if name not in (
      "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")} | {"PYTHONPATH": str(ROOT)}
  command = [sys.executable, str(Path(__file__).with_name("compile_kernels.py")), chip]
  done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
  assert done.returncode == 0, done.stderr
  # One kernel forwards, one backwards.
  assert [line.split()[2] for line in done.stdout.splitlines()] == ["2"] * len(KERNELS)
