"""Eight CPU devices for every test, and programs that compile fast, and once; this must come before JAX is imported."""

import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# A device waits for the others on a thread of a pool that has one a device: a second wait of any of them, and all wait
# for ever. XLA makes as many as this says.
os.environ.setdefault("NPROC", "32")
# Most of the tests' time is compilation, most of which is LLVM's optimization. Flags of the caller win: the whole suite
# with optimized programs is XLA_FLAGS=--xla_backend_optimization_level=3. Eight devices on two busy cores may wait long
# for each other, where XLA would end the process.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600 " + os.environ.get("XLA_FLAGS", ""))

# Tests, workers and processes that they start compile many of the same programs: the first one keeps them for all.
_OURS = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if _OURS:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="nova_jax-programs-")
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_unconfigure():
  """Remove the programs; workers, which inherited the folder, leave that to the process that made it."""
  if _OURS:
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
