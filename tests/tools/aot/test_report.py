"""Arithmetic of the report, and the compiler's errors read."""

import dataclasses
import types

import jax
import pytest

from nova_jax.tools.aot import report as report_lib
from nova_jax.tools.aot.collectives import Collective
from nova_jax.tools.aot.programs import Job
from nova_jax.tools.aot.report import lines, out_of_memory, roofline, total_seconds
from nova_jax.utils.chips import CHIPS, GIB, find_chip, peak_flops

V5E = CHIPS["v5e"]
JOB = Job("toy", types.SimpleNamespace(size=4, shape={"fsdp": 4}), lambda: None, "bfloat16")


def test_roofline_is_the_slowest_resource():
  # Each device multiplies for 2 s, half of it recomputation, and reads memory for 1 s.
  line = roofline(V5E, JOB, 4 * V5E.flops, 8 * V5E.flops, V5E.hbm_bandwidth, [])
  assert line == {"compute": 2, "memory": 1, "network": 0, "bottleneck": "compute", "seconds": 2, "mfu": 0.5}
  line = roofline(V5E, JOB, 4 * V5E.flops, 4 * V5E.flops, 5 * V5E.hbm_bandwidth, [])
  assert line["bottleneck"] == "memory" and line["mfu"] == 0.2


def test_links_of_different_dimensions_carry_at_the_same_time():
  # One second each along x, along y, along both, and between slices.
  rate = lambda dims: 2 * len(dims) * V5E.link if dims else V5E.dcn
  move = lambda seconds, *dims: Collective(
      "collective-permute", "", 1, False, int(seconds * rate(dims)), (), 2, (), dims)
  network = lambda *moves: roofline(V5E, JOB, 0, 0, 0, moves)["network"]
  assert network(move(1, 0), move(1, 1), move(1)) == 1
  assert network(move(1, 0), move(1, 1), move(1, 0, 1)) == 2
  assert network(move(1), move(2)) == 3


def test_a_program_that_cannot_be_read_still_has_its_memory(monkeypatch):
  monkeypatch.setattr(report_lib.hlo, "parse", lambda text: (_ for _ in ()).throw(ValueError("loop.3: no bound")))
  compiled = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), "float32"))
  job = dataclasses.replace(JOB, lower=lambda: compiled)
  found = []
  report = report_lib.compile_job(job, types.SimpleNamespace(chip=V5E, name="v5e:2x2"), found.append)
  assert report["fits"] and report["unreadable"] == "loop.3: no bound" and "roofline" not in report
  assert "can't be read" in found[-1]


@pytest.mark.parametrize("message, expected", [
    ("RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
     "temporaries (298.86G) exceeds available HBM (15.75G).", (298.86, 15.75)),
    ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.50G of 15.75G hbm. Exceeded hbm capacity by "
     "2.75G.", (18.5, 15.75)),
    ("RESOURCE_EXHAUSTED: out of vmem", None), ("INTERNAL: Used 18.50G of 15.75G hbm", None)])
def test_out_of_memory_errors(message, expected):
  found = out_of_memory(message)
  assert found == expected if expected is None else found == pytest.approx([size * GIB for size in expected])


def test_float32_peak_depends_on_the_precision():
  chip = find_chip("TPU v5 lite")
  assert chip is V5E
  assert peak_flops(chip, "float32") == peak_flops(chip, "bfloat16", "highest") == 197e12
  assert peak_flops(chip, "float32", "high") == 197e12 / 3 and peak_flops(chip, "float32", "highest") == 197e12 / 6
  assert find_chip("cpu") is None


def test_what_does_not_fit_says_so():
  report = {"program": "toy", "mesh": {"fsdp": 4}, "fits": False, "compile_seconds": 3.0, "samples": 1, "runs": 1,
            "memory": {"parameters": GIB, "peak": 18.5 * GIB, "limit": 15.75 * GIB}}
  text = "\n".join(lines(report))
  assert "toy on fsdp=4: DOES NOT FIT" in text and "18.50 of 15.75 GiB" in text


@pytest.mark.parametrize("once, start", [(False, "  WARNING  1 all-gathers"), (True, "  note     1 all-gathers")])
def test_gathers_on_purpose_are_no_warning(once, start):
  roof = {"seconds": 1.0, "bottleneck": "compute", "compute": 1.0, "memory": 0.5, "network": 0.5, "mfu": 0.5}
  report = {
      "program": "toy", "mesh": {"fsdp": 4}, "fits": True, "compile_seconds": 3.0, "samples": 1, "runs": 1,
      "memory": {"peak": GIB, "limit": 2 * GIB}, "roofline": roof, "flops": 1.0, "executed_flops": 1.0,
      "hbm_bytes": 1.0, "collectives": [], "gathers_outside_layers": ["all-gather.1"], "gathers_once": once,
      "resharded": []}
  assert lines(report)[-1].startswith(start)


def test_a_generation_is_the_sum_of_its_runs():
  assert total_seconds([{"runs": 1, "roofline": {"seconds": 2}}, {"runs": 10, "roofline": {"seconds": 3}}]) == 32
