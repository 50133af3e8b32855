"""Eight CPU devices for every test, and programs that compile fast; this must come before JAX is imported."""

import os

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
