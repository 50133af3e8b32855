"""Reports on a compiled program: memory and its limit, collectives, and a roofline estimate of the time.

  time ≥ max(compute, memory, network), as if all three overlapped fully:
    compute   executed products / peak          memory   bytes to and from HBM / bandwidth
    network   Σ wire bytes / bandwidth of the busiest links: a ring both ways along each dimension of the torus that a
              group spans, or the hosts' network between slices
The largest of the three is the bottleneck. Executed products include those that are computed again; heads that are
narrower than the chip's matrix unit count as if they were as wide, since they take as long. A real program is slower,
since overlap is never perfect. The memory part may be too high, since an array counts in full unless the text shows
that only a slice is used.
Invariant: every number comes from a formula or the compiled program; nothing is measured.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from nova_jax.tools.aot import collectives as coll
from nova_jax.tools.aot import hlo
from nova_jax.tools.aot.compiler import DEFAULT, Compiled, CompileError, Options, compile_program, plan_program
from nova_jax.tools.aot.programs import Job
from nova_jax.tools.aot.topology import Topology
from nova_jax.utils.chips import GIB, Chip, peak_flops

Report = dict[str, Any]


def compile_job(
    job: Job, topology: Topology, say: Callable[[str], None], options: Options = DEFAULT,
    lower: Callable[[], jax.stages.Lowered] | None = None,
) -> Report:
  """Compile a program, print the outcome with `say`, and return the report.

  `fits` is false in the report if the program needs too much memory.

  Args:
    job: program.
    topology: chips to compile for.
    say: function that prints a text.
    options: how to compile.
    lower: function that returns the program in another process; needed without machine code.

  Raises:
    CompileError: the compiler refuses the program, for another reason than memory.
  """
  say(f"compiling {job.name} for {topology.name} ...")
  started = time.perf_counter()
  report: Report = {"program": job.name, "mesh": dict(job.mesh.shape), "runs": job.runs, "samples": job.samples}
  try:
    if options.machine_code:
      compiled = compile_program(job.lower(), job.mesh.size, options.xla)
    else:
      assert lower is not None
      compiled = plan_program(lower, options.xla)
  except CompileError as error:
    needed = out_of_memory(str(error))
    if needed is None:
      raise
    report |= {"fits": False, "memory": {**job.inputs, "peak": needed[0], "limit": needed[1]}}
  else:
    size = memory(job, compiled, topology)
    report |= {"fits": size["peak"] <= size["limit"], "memory": size} | _judge(job, compiled, topology)
  report["compile_seconds"] = time.perf_counter() - started
  say("\n".join(lines(report)))
  return report


def _judge(job: Job, compiled: Compiled, topology: Topology) -> Report:
  """Return the part of a report that comes from the program's text."""
  moved = {"resharded": resharded(job, compiled)}
  try:
    program = hlo.parse(compiled.text)
    moves, traffic = coll.find_collectives(program, job.mesh), hlo.hbm_bytes(program)
  except ValueError as error:  # The text has an unknown notation.
    return moved | {"unreadable": str(error).splitlines()[0]}
  flops, executed = job.flops or compiled.flops, job.executed or job.flops or compiled.flops
  early = coll.gathers_outside_layers(moves, job.stacks, job.mesh.shape.get("tensor", 1))
  return moved | {
      "flops": flops, "executed_flops": executed, "hbm_bytes": traffic,
      "collectives": summarize(moves, topology.chip),
      "gathers_outside_layers": [move.name for move in early], "gathers_once": job.gathers_once,
      "roofline": roofline(topology.chip, job, flops, executed, traffic, moves)}


def out_of_memory(message: str) -> tuple[float, float] | None:
  """Return the required bytes and the limit from an out-of-memory error of the compiler; None for other errors."""
  # Two stages of the compiler raise it; the first one counts only temporaries.
  found = (re.search(r"required[^(]*\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", message)
           or re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", message))
  if "RESOURCE_EXHAUSTED" not in message or not found:
    return None
  unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
  return float(found[1]) * unit[found[2]], float(found[3]) * unit[found[4]]


def memory(job: Job, compiled: Compiled, topology: Topology) -> dict[str, float]:
  """Return bytes per device: inputs by kind, temporaries, code, host memory, peak and limit."""
  # Unused inputs are dropped from the program, but stay in memory.
  inputs = max(compiled.arguments, sum(job.inputs.values()))
  peak = inputs + compiled.outputs + compiled.temporaries + compiled.code
  return {
      **job.inputs, "temporaries": compiled.temporaries, "code": compiled.code, "host": compiled.host, "peak": peak,
      "limit": topology.chip.limit}


def resharded(job: Job, compiled: Compiled) -> list[str]:
  """Return the arrays of a state that a step returns with another sharding than it takes, as far as that is known."""
  if job.state is None or compiled.shardings is None:
    return []
  leaves = jax.tree_util.tree_leaves_with_path(job.state)
  before, after = (shardings[:len(leaves)] for shardings in compiled.shardings)
  return [
      jax.tree_util.keystr(path) for (path, leaf), old, new in zip(leaves, before, after, strict=True)
      if not (old.is_equivalent_to(new, len(leaf.shape)) and old.is_equivalent_to(leaf.sharding, len(leaf.shape)))]


def summarize(moves: Sequence[coll.Collective], chip: Chip) -> list[dict[str, Any]]:
  """Sum collectives by kind and mesh axes, in order of decreasing cost."""
  table: dict[tuple[str, str], dict[str, Any]] = {}
  for move in moves:
    key = (move.kind, "+".join(move.axes))
    row = table.setdefault(key, {"kind": key[0], "axes": key[1], "count": 0, "bytes": 0.0, "seconds": 0.0})
    row["count"] += move.times
    row["bytes"] += move.times * move.wire_bytes
    row["seconds"] += network_seconds(move, chip)
  return sorted(table.values(), key=lambda row: -row["seconds"])


def network_seconds(move: coll.Collective, chip: Chip) -> float:
  """Return the seconds that all runs of a collective take at full bandwidth."""
  bandwidth = 2 * len(move.dims) * chip.link if move.dims else chip.dcn
  return move.times * move.wire_bytes / bandwidth


def roofline(
    chip: Chip, job: Job, flops: float, executed: float, hbm_bytes: float, moves: Sequence[coll.Collective]
) -> dict[str, Any]:
  """Return the seconds per resource, the bottleneck, and the utilisation if it were the only cost."""
  peak, devices = peak_flops(chip, job.dtype), job.mesh.size
  links: dict[int | str, float] = {}  # By dimension of the torus, or between slices; all transfer at once.
  for move in moves:
    for link in move.dims or ("slices",):
      links[link] = links.get(link, 0.0) + network_seconds(move, chip)
  parts = {
      "compute": executed / devices / peak, "memory": hbm_bytes / chip.hbm_bandwidth,
      "network": max(links.values(), default=0.0)}
  bottleneck = max(parts, key=parts.get)
  seconds = parts[bottleneck]
  return {**parts, "bottleneck": bottleneck, "seconds": seconds, "mfu": flops / devices / peak / seconds}


def lines(report: Report) -> list[str]:
  """Return a report as lines for the terminal."""
  size = report["memory"]
  inside = ", ".join(
      f"{name} {part / GIB:.2f}" for name, part in size.items() if name not in ("peak", "limit") and part >= GIB / 200)
  verdict = "fits" if report["fits"] else "DOES NOT FIT"
  mesh = ",".join(f"{axis}={size}" for axis, size in report["mesh"].items() if size > 1) or "one device"
  least = "at least " if "temporaries" not in size else ""
  out = [
      f"{report['program']} on {mesh}: {verdict}; compiled in {report['compile_seconds']:.0f} s",
      f"  memory   {least}{size['peak'] / GIB:.2f} of {size['limit'] / GIB:.2f} GiB a device: {inside or 'hardly any'}"]
  if "unreadable" in report:
    out.append(f"  note     this program's text can't be read, so there is no roofline: {report['unreadable']}")
  if "roofline" not in report:
    return out
  line = report["roofline"]
  rate = f", {report['samples'] / line['seconds']:.1f} clips/s" if report["samples"] and report["runs"] == 1 else ""
  out += [
      f"  work     {report['flops']:.3e} FLOPs by formula, {report['executed_flops']:.3e} executed, "
      f"{report['hbm_bytes'] / 1e9:.1f} GB through each device's HBM",
      f"  roofline at least {1e3 * line['seconds']:.1f} ms, bound by {line['bottleneck']} (compute "
      f"{1e3 * line['compute']:.1f}, memory {1e3 * line['memory']:.1f}, network {1e3 * line['network']:.1f}); "
      f"MFU at most {line['mfu']:.0%}{rate}"]
  out += [
      f"  network  {row['count']:>5} x {row['kind']:<18} over {row['axes']:<12} {row['bytes'] / 1e6:>10.1f} MB "
      f"{1e3 * row['seconds']:>8.2f} ms" for row in report["collectives"]]
  gathers, moved = report["gathers_outside_layers"], report["resharded"]
  if gathers and report["gathers_once"]:
    out.append(f"  note     {len(gathers)} all-gathers of parameters are outside their layers (train.gather_once)")
  elif gathers:
    out.append(f"  WARNING  {len(gathers)} all-gathers of parameters are outside their layers, such as {gathers[0]}")
  if moved:
    out.append(f"  WARNING  {len(moved)} arrays come out sharded otherwise than they go in, such as {moved[0]}")
  return out


def total_seconds(reports: Sequence[Report]) -> float:
  """Return the least time of all programs, each multiplied by the number of its runs."""
  return sum(report["runs"] * report["roofline"]["seconds"] for report in reports)
