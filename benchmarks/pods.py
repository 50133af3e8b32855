"""Compile the released models for their pods: `python -m benchmarks.pods --folder runs/pods --table docs/pods.md`.

Does what `launch.compile --nomachine_code` does for each model, pod and program, and for each way to save memory, and
writes the tables from the results. Each result is a file in --folder; those that are there already aren't compiled
again, so a run that was stopped goes on. A training step takes about 20 s of one core. --machine_code also compiles the
kernels, which takes hours.
"""

import dataclasses
import importlib
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from nova_jax.cli import Command
from nova_jax.config import REMAT, Experiment
from nova_jax.tools.aot.compiler import CompileError, Options
from nova_jax.tools.aot.pods import SAMPLE_MESH, TOPOLOGIES
from nova_jax.tools.aot.search import compile_all, with_remat
from nova_jax.tools.aot.topology import parse_mesh, parse_topology, prepare_environment
from nova_jax.train.stages import plan_stages
from nova_jax.utils.chips import GIB
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import read_json, write_atomically

MODELS = (
    "nova_d48w768_sdxl1024", "nova_d48w1024_sdxl1024", "nova_d48w1536_sdxl1024", "nova_d48w1024_sd512",
    "nova_d48w1024_osp480")
# Models that share an autoencoder share the decoding program.
DECODED = ("nova_d48w768_sdxl1024", "nova_d48w1024_sd512", "nova_d48w1024_osp480")
ON_TWO_SLICES = ("nova_d48w1024_sd512", "nova_d48w1024_osp480")
SAVING = "nova_d48w1024_sd512"  # The model whose memory is compared.
ACCUMULATIONS = (1, 4)
GOAL = 0.6  # Utilisation that every training step should reach.
HEADER = """# Pods

This page shows how the TPU compiler judges the configs of the released models; nothing was measured on a TPU. The
compiler is the libtpu that JAX asks for (`constraints.txt`). This command writes all tables:
`python -m benchmarks.pods --folder runs/pods --table docs/pods.md`. It stops where the compiler has decided on layouts,
fusions, collectives and memory; rows with an asterisk were compiled to machine code, whose own size the other peaks
leave out (10 to 30 MB of small programs).
"""
SUMMARY_HEADER = """
## How long a run takes

The least time, in hours, of all steps of a config, its stages added up: steps × the time of a step at the roofline. No
run is faster, and a real one is slower, since nothing overlaps perfectly.
"""
ROWS_HEADER = """
## Every model on every pod

Peak is the memory that a device needs, next to the compiler's limit. The roofline is the least time that the chip's
peak FLOP/s, HBM and network permit (`nova_jax/tools/aot/report.py`); its utilisation (MFU) excludes recomputation, and
counts heads that are narrower than the chip's matrix unit as wide as it. "Early" counts all-gathers of parameters
outside the layer that needs them, of several matrices for all layers: v5e, v6e and tpu7x gather all weights once a step
on purpose (`train.gather_once`); on v4 and v5p the compiler does so in each micro-batch. The peak includes them.

A chip of `tpu7x` (Ironwood) is two devices, with half of its peak, memory and links each: 128 in `tpu7x:4x4x4`. What
the two send each other counts as if it took the links.
"""
BELOW_HEADER = f"""
## Training below {GOAL:.0%}

The utilisation that products alone permit is below 100 % for two reasons: heads of 64 or 96 values fill only a part of
a matrix unit, 128 or, on v6e and tpu7x, 256 values wide, and the backward pass computes attention's scores again. A
clip of nine frames also has more activations than fit in a v6e's VMEM, although each chip takes one at a time; sharding
its tokens over two or four chips (`mesh.context`) and keeping less of it (`model.remat=mlp`) gain nothing.

"""
SAVING_HEADER = f"""
## What saves memory, and what it costs

The training step of {SAVING} on {TOPOLOGIES["v5e"]} with its 2048 pictures, by rematerialisation and number
of micro-batches. "Executed" is the ratio of floating-point operations with recomputation to those without.
"""
COLUMNS = ("model", "pod", "mesh", "program", "clips", "peak / limit, GiB", "at least, ms", "bound by", "MFU at most",
           "network, MB", "early")
SAVING_COLUMNS = ("remat", "accumulation", "temporaries, GiB", "peak, GiB", "in the host, GiB", "executed",
                  "at least, ms", "HBM, GB", "network, MB")


class Row(NamedTuple):
  """One run of `launch.compile`."""

  model: str
  chip: str
  topology: str
  what: str
  remat: str = ""  # If these two are missing, the recipe's apply.
  accumulation: int = 0

  def path(self, folder: Path) -> Path:
    """Return the file of its result."""
    saving = f"-{self.remat}-{self.accumulation}" if self.remat else ""
    return folder / f"{self.model}-{self.topology.replace(':', '-').replace('*', '-slices')}-{self.what}{saving}.json"

  def experiment(self) -> Experiment:
    """Return what is compiled."""
    experiment = from_dict(Experiment, importlib.import_module(f"nova_jax.configs.{self.model}").get_config(self.chip))
    num_slices, train = parse_topology(self.topology).num_slices, experiment.train
    if num_slices > 1:  # Each chip has fewer clips.
      train = dataclasses.replace(train, accumulation=max(train.accumulation // num_slices, 1))
      experiment = dataclasses.replace(experiment, train=train)
    if self.what == "sample":
      experiment = dataclasses.replace(experiment, mesh=parse_mesh(SAMPLE_MESH))
    if self.remat:
      train = dataclasses.replace(train, accumulation=self.accumulation)
      experiment = with_remat(dataclasses.replace(experiment, train=train), self.remat)
    return experiment


def rows(models: Sequence[str], chips: Sequence[str]) -> list[Row]:
  """Return all rows of the first table, training first."""
  chips = [chip for chip in TOPOLOGIES if chip in chips]
  models = [model for model in MODELS if model in models]
  two = [Row(model, "v5e", f"{TOPOLOGIES['v5e']}*2", what)
         for what, model in itertools.product(("train", "sample"), ON_TWO_SLICES) if model in models and "v5e" in chips]
  one = [Row(model, chip, TOPOLOGIES[chip], what)
         for what, chip, model in itertools.product(("train", "sample"), chips, models)]
  # A frame is decoded by one device: one kind of chip shows what that takes.
  decode = [Row(model, "v5e", TOPOLOGIES["v5e"], "decode") for model in DECODED if model in models and "v5e" in chips]
  return sorted(one + two + decode, key=lambda row: row.what != "train")


def saving_rows(models: Sequence[str], chips: Sequence[str]) -> list[Row]:
  """Return all rows of the second table."""
  if SAVING not in models or "v5e" not in chips:
    return []
  return [Row(SAVING, "v5e", TOPOLOGIES["v5e"], "train", remat, accumulation)
          for accumulation, remat in itertools.product(ACCUMULATIONS, REMAT)]


def compile_row(folder: Path, row: Row, options: Options) -> bool:
  """Compile a row into its file; return whether that succeeded, if not always to something that fits."""
  say = lambda text: print(text, flush=True)
  try:
    reports = compile_all(row.experiment(), parse_topology(row.topology), row.what, say, options)
  except CompileError as error:
    say(f"{row.path(folder).stem} does not compile: {str(error).splitlines()[0]}")
    return False
  result = {"topology": row.topology, "machine_code": options.machine_code, "programs": reports}
  write_atomically(row.path(folder), json.dumps(result, indent=1) + "\n")
  return True


def table_lines(model: str, result: dict) -> list[str]:
  """Return a result as rows of the first table, one a program."""
  lines = []
  for report in result.get("programs", ()):
    mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1) or "one device"
    size = report["memory"]
    program = report["program"] + (" *" if result["machine_code"] else "")
    cells = [model, result["topology"], mesh, program, report["samples"] or "",
             f"{gib(size['peak'])} / {gib(size['limit'])}{'' if report['fits'] else ', does not fit'}"]
    if "roofline" in report:
      line = report["roofline"]
      cells += [f"{1e3 * line['seconds']:.1f}", line["bottleneck"], f"{line['mfu']:.0%}" if report["flops"] else "",
                moved(report),
                len(report["gathers_outside_layers"])]
    else:
      cells += [""] * 5
    lines.append(markdown(cells))
  return lines


def run_hours(row: Row, result: dict) -> float | None:
  """Return the least hours of all steps of a run; None if a stage has no roofline."""
  stages, reports = plan_stages(row.experiment().train), result["programs"]
  if not all("roofline" in report for report in reports):
    return None
  seconds = sum(
      (stage.last - stage.first) * report["roofline"]["seconds"] for stage, report in zip(stages, reports, strict=True))
  return seconds / 3600


def summary(done: Mapping[Row, dict]) -> str:
  """Return the table of hours, a model a row and a pod a column."""
  hours = {(row.model, row.topology): run_hours(row, result)
           for row, result in done.items() if row.what == "train" and not row.remat}
  models, pods = ([*dict.fromkeys(key[place] for key in hours)] for place in (0, 1))
  cells = lambda model: (hours.get((model, pod)) for pod in pods)
  steps = {row.model: row.experiment().train.steps for row in done}
  return table(("model", "steps", *pods), [
      markdown([model, f"{steps[model]:,}", *("" if cell is None else f"{cell:.1f}" for cell in cells(model))])
      for model in models])


def below_goal(row: Row, result: dict) -> list[str]:
  """Return a line for each training step whose utilisation stays below the goal: the reason."""
  lines = []
  for report in result["programs"]:
    if "roofline" not in report or report["roofline"]["mfu"] >= GOAL:
      continue
    line, most = report["roofline"], report["flops"] / report["executed_flops"]
    text = f"- {row.model}, {report['program']} on {row.topology}, {line['mfu']:.0%}: products alone permit {most:.0%}"
    if line["bottleneck"] != "compute":
      text += (f"; {line['bottleneck']} takes {1e3 * line[line['bottleneck']]:.0f} ms, "
               f"products {1e3 * line['compute']:.0f} ms")
    lines.append(text + ".")
  return lines


def saving_line(row: Row, result: dict) -> str:
  """Return a result as a row of the second table."""
  (report,) = result["programs"]
  size = report["memory"]
  cells = [row.remat, row.accumulation, gib(size["temporaries"]) if "temporaries" in size else "",
           f"{gib(size['peak'])}{'' if report['fits'] else ', does not fit'}", gib(size.get("host", 0))]
  if "roofline" in report:
    cells += [f"{report['executed_flops'] / report['flops']:.2f}", f"{1e3 * report['roofline']['seconds']:.0f}",
              f"{report['hbm_bytes'] / 1e9:.0f}", moved(report)]
  else:
    cells += [""] * 4
  return markdown(cells)


def gib(size: float) -> str:
  return f"{size / GIB:.2f}"


def moved(report: dict) -> str:
  """Return the MB that a device sends."""
  return f"{sum(move['bytes'] for move in report['collectives']) / 1e6:.0f}"


def markdown(cells: Sequence[object]) -> str:
  return f"| {' | '.join(map(str, cells))} |"


def table(columns: Sequence[str], lines: Sequence[str]) -> str:
  return "\n".join([markdown(columns), "|---" * len(columns) + "|", *lines]) + "\n"


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("folder", None, "Where results are kept, a JSON file each.", flag_values=values)
  flags.DEFINE_string("table", None, "Markdown file to write.", flag_values=values)
  flags.DEFINE_bool(
      "compile", True, "Compile what is missing; else write the tables of what is there.", flag_values=values)
  flags.DEFINE_bool(
      "machine_code", False, "Whether to also write machine code, as launch.compile does.", flag_values=values)
  flags.DEFINE_list("chips", list(TOPOLOGIES), "Which chips to compile for.", flag_values=values)
  flags.DEFINE_list("models", list(MODELS), "Which configs to compile.", flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Compile what is missing in --folder and write --table."""
  folder, failed = Path(args.folder), []
  todo, saving = rows(args.models, args.chips), saving_rows(args.models, args.chips)
  if args.compile:
    prepare_environment()
    folder.mkdir(parents=True, exist_ok=True)
    # The products of a decoder have no formula: XLA counts them with the machine code.
    options = lambda row: Options(machine_code=args.machine_code or row.what == "decode")
    failed = [
        row for row in todo + saving if not row.path(folder).exists() and not compile_row(folder, row, options(row))]
  done = {row: read_json(row.path(folder)) for row in todo + saving if row.path(folder).exists()}
  lines = [line for row in todo if row in done for line in table_lines(row.model, done[row])]
  text = HEADER + SUMMARY_HEADER + "\n" + summary(done) + ROWS_HEADER + "\n" + table(COLUMNS, lines)
  below = [line for row in todo if row in done and row.what == "train" for line in below_goal(row, done[row])]
  if below:
    text += BELOW_HEADER + "\n".join(below) + "\n"
  if any(row in done for row in saving):
    text += SAVING_HEADER + "\n" + table(
        SAVING_COLUMNS, [saving_line(row, done[row]) for row in saving if row in done])
  if len(done) < len(todo + saving):
    text += f"\n{len(todo + saving) - len(done)} of {len(todo + saving)} runs of launch.compile are still to be made.\n"
  write_atomically(Path(args.table), text)
  if failed:
    sys.exit(f"error: {len(failed)} did not compile: {', '.join(row.path(folder).stem for row in failed)}")


if __name__ == "__main__":
  Command(main, define_flags, required=("folder", "table")).run()
