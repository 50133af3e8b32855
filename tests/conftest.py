"""Eight CPU devices for every test, and programs that compile fast; this must come before JAX is imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the tests' time is compilation, most of which is LLVM's optimization. Flags of the caller win: the whole suite
# with optimized programs is XLA_FLAGS=--xla_backend_optimization_level=3.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", ""))
