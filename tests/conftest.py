"""Eight CPU devices for every test, and programs that compile fast, and once; this must come before JAX is imported."""

import gc
import hashlib
import os
import platform
import shutil
from pathlib import Path

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # Nothing is asked of the hub.
# A device waits for the others on a thread of a pool that has one a device: a second wait of any of them, and all wait
# for ever. XLA makes as many as this says.
os.environ.setdefault("NPROC", "32")
# Most of the tests' time is compilation: LLVM's optimization, then MLIR's, then the parts into which a program is cut.
# Flags of the caller win: with programs as users have them,
# XLA_FLAGS="--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true". Eight devices on two busy cores may
# wait long for each other, where XLA would end the process. Where products run on threads of their own, two devices may
# begin two collectives in different order, and wait for each other for ever: of some hundred training steps over
# `context` one did so, and none of 2,100 with products on the device's own thread.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_multi_thread_eigen=false "
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600 " + os.environ.get("XLA_FLAGS", ""))

# Tracing makes many objects, most of which live long: looking for garbage among them so often took a tenth of the time.
gc.set_threshold(100_000, 50, 1000)

_LARGEST = 2**30  # Bytes of kept programs; one run needs about a tenth.


def _programs() -> Path:
  """Return the folder of programs of this kind of processor; others could not run them. JAX's names say the rest."""
  about = Path("/proc/cpuinfo")
  lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else [platform.processor()]
  kinds = {line for line in lines if line.split("\t")[0] in ("flags", "Features", "model name")}
  kind = hashlib.sha256("\n".join([platform.machine(), *sorted(kinds)]).encode()).hexdigest()[:12]
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nova_jax" / f"test-programs-{kind}"


# Tests, workers, processes that they start and later runs compile many of the same programs: the first one keeps them.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  folder = _programs()
  if folder.is_dir() and sum(entry.stat().st_size for entry in os.scandir(folder)) > _LARGEST:
    shutil.rmtree(folder, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_terminal_summary(terminalreporter):
  """Name the processor, since the durations above say little without it."""
  from nova_jax.utils.processor import processor_name

  terminalreporter.write_line(f"on {os.cpu_count()} cores of {processor_name()}")


@pytest.fixture(autouse=True, scope="session")
def _memory_is_given_back():
  """Leave the allocator as it is, since what a command sets would hold for all later tests."""
  from nova_jax.utils import memory

  memory.keep_freed_memory = lambda: None


@pytest.fixture(autouse=True, scope="session")
def _lines_are_printed():
  """Print what commands print, since tests read it there: a library would only log it."""
  from nova_jax.utils import terminal  # After what is set above for JAX.

  terminal.print_lines()


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """The Hugging Face hub's stand-in, with no repositories yet, and an empty cache."""
  from hub_stand_in import Hub, point_to

  with Hub() as running:
    point_to(running.url, tmp_path / "cache", monkeypatch)
    yield running
