"""Memory of the host in training."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest
from commands import run

from nova_jax.train import nova
from nova_jax.utils import memory


@pytest.mark.parametrize("backend, kept", [("cpu", True), ("tpu", False)])
def test_training_on_a_cpu_keeps_what_a_step_frees(tmp_path, monkeypatch, backend, kept):
  called = []
  monkeypatch.setattr(memory, "tune_heap", lambda: called.append("memory"))
  monkeypatch.setattr(nova, "train_nova", lambda *_: called.append("training"))
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  done = run("train", "--config=digits", f"--workdir={tmp_path / 'run'}", "--compilation_cache=off")
  assert done.returncode == 0, done.stderr
  assert called == ["memory"] * kept + ["training"]


HEAP = """
import os, sys
from nova_jax.utils import memory

if sys.argv[1:]:
  import resource
  resource.setrlimit(resource.RLIMIT_DATA, (2**28, 2**28))
memory.tune_heap()
with open("/proc/self/smaps") as file:
  areas = file.read().split("[heap]")[1:]
flags = [line.split()[1:] for area in areas for line in area.splitlines() if line.startswith("VmFlags")][:len(areas)]
block = bytearray(2**27)
print(sum("hg" in found for found in flags), block.count(0) == 2**27)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone tells what memory is made of")
@pytest.mark.parametrize("limited, told", [(False, "1 True"), (True, "0 True")])
def test_the_heap_may_lie_in_huge_pages(limited, told):
  """Where a limit forbids a heap that large, all goes on without."""
  done = subprocess.run(
      [sys.executable, "-c", HEAP, *(["limited"] * limited)], capture_output=True, encoding="utf-8", check=True)
  assert done.stdout.strip() == told
