"""Memory of the host."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from nova_jax.cli import endings
from nova_jax.utils import memory

memory.tune_heap = lambda: print("heap")
endings.run_program(lambda: print("program") or 0)
"""
HEAP = """
import sys
from nova_jax.utils import memory

if "limited" in sys.argv:
  import resource
  resource.setrlimit(resource.RLIMIT_DATA, (2**28, 2**28))
memory._ACCELERATORS = ("/dev/null",) if "accelerated" in sys.argv else ()
memory.tune_heap()
if "trimmed" in sys.argv:
  import ctypes
  ctypes.CDLL(None).malloc_trim(0)
with open("/proc/self/smaps") as file:
  areas = file.read().split("[heap]")[1:]
flags = [next(line.split() for line in area.splitlines() if line.startswith("VmFlags")) for area in areas]
block = bytearray(2**27)
print(sum("hg" in found for found in flags), block.count(0) == 2**27)
"""


def test_a_program_tunes_its_heap_before_it_does_anything():
  done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, encoding="utf-8", check=True)
  assert done.stdout.split() == ["heap", "program"]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone tells what memory is made of")
@pytest.mark.parametrize("how, told", [("", "1 True"), ("trimmed", "1 True"), ("limited", "0 True"),
                                       ("accelerated", "0 True")])
def test_the_heap_may_lie_in_huge_pages(how, told):
  """Where a limit forbids a heap that large, all goes on without."""
  done = subprocess.run([sys.executable, "-c", HEAP, how], capture_output=True, encoding="utf-8", check=True)
  assert done.stdout.strip() == told
