"""Compile the released models for their pods: `python -m benchmarks.pods --folder runs/pods --table docs/pods.md`.

Runs `launch.compile` for each model, pod and program, and for each way to save memory, and writes the tables from what
it says. Each result is a file in --folder; those that are there already aren't compiled again, so a run that was
stopped goes on. It takes hours on two cores: a training step a few minutes, the other programs about one each.
"""

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from nova_jax.cli import Command
from nova_jax.config import REMAT
from nova_jax.tools.aot.pods import SAMPLE_MESH, TOPOLOGIES
from nova_jax.utils.chips import GIB
from nova_jax.utils.errors import FAILED
from nova_jax.utils.files import read_json, write_atomically

MODELS = (
    "nova_d48w768_sdxl1024", "nova_d48w1024_sdxl1024", "nova_d48w1536_sdxl1024", "nova_d48w1024_sd512",
    "nova_d48w1024_osp480")
# Models that share an autoencoder share the decoding program.
DECODED = ("nova_d48w768_sdxl1024", "nova_d48w1024_sd512", "nova_d48w1024_osp480")
ON_TWO_SLICES = ("nova_d48w1024_sd512", "nova_d48w1024_osp480")
SAVING = "nova_d48w1024_sd512"  # The model whose memory is compared.
ACCUMULATIONS = (1, 4)
HEADER = """# Pods

This page shows how the TPU compiler judges the configs of the released models; nothing was measured on a TPU. Peak is
the memory that a device needs, next to the compiler's limit. The roofline is the least time that the chip's peak
FLOP/s, HBM and network permit (`nova_jax/tools/aot/report.py`); its utilisation (MFU) excludes recomputation. "Early"
counts all-gathers of parameters outside the layer that needs them, and "resharded" counts arrays that a step returns
with another sharding than it takes. This command writes both tables:
`python -m benchmarks.pods --folder runs/pods --table docs/pods.md`.

## Every model on every pod
"""
SAVING_HEADER = f"""
## What saves memory, and what it costs

The training step of {SAVING} on {TOPOLOGIES["v5e"]} with its 2048 pictures, by rematerialisation and number
of micro-batches. "Executed" is the ratio of floating-point operations with recomputation to those without.
"""
COLUMNS = ("model", "pod", "mesh", "program", "clips", "peak / limit, GiB", "at least, ms", "bound by", "MFU at most",
           "network, MB", "early, resharded", "compiled in, s")
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

  def command(self, folder: Path) -> list[str]:
    """Return the module to run and its flags."""
    command = ["launch.compile", f"--config=configs/{self.model}.py:{self.chip}", f"--topology={self.topology}",
               f"--what={self.what}", f"--json={self.path(folder)}"]
    if self.what == "sample":
      command.append(f"--mesh={SAMPLE_MESH}")
    if self.remat:
      command += [f"--config.model.remat={self.remat}", f"--config.train.accumulation={self.accumulation}"]
    return command


def rows(models: Sequence[str], chips: Sequence[str]) -> list[Row]:
  """Return all rows of the first table, those for one v5e pod first."""
  chips = sorted(chips, key=lambda chip: chip != "v5e")
  one = [Row(model, chip, TOPOLOGIES[chip], what)
         for chip, what, model in itertools.product(chips, ("train", "sample"), MODELS) if model in models]
  # A frame is decoded by one device: one kind of chip shows what that takes.
  one += [Row(model, "v5e", TOPOLOGIES["v5e"], "decode") for model in DECODED if model in models and "v5e" in chips]
  two = [Row(model, "v5e", f"{TOPOLOGIES['v5e']}*2", what)
         for what, model in itertools.product(("train", "sample"), ON_TWO_SLICES) if model in models and "v5e" in chips]
  return one + two


def saving_rows(models: Sequence[str], chips: Sequence[str]) -> list[Row]:
  """Return all rows of the second table."""
  if SAVING not in models or "v5e" not in chips:
    return []
  return [Row(SAVING, "v5e", TOPOLOGIES["v5e"], "train", remat, accumulation)
          for accumulation, remat in itertools.product(ACCUMULATIONS, REMAT)]


def compile_row(folder: Path, row: Row) -> bool:
  """Compile a row; return whether it was compiled, if not always to something that fits."""
  module, *flags_ = row.command(folder)
  print(" ".join([module, *flags_]), flush=True)
  return subprocess.run([sys.executable, "-m", module, *flags_]).returncode in (0, FAILED)


def table_lines(model: str, result: dict) -> list[str]:
  """Return a result as rows of the first table, one a program."""
  lines = []
  for report in result.get("programs", ()):
    mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1) or "one device"
    size = report["memory"]
    cells = [model, result["topology"], mesh, report["program"], report["samples"] or "",
             f"{gib(size['peak'])} / {gib(size['limit'])}{'' if report['fits'] else ', does not fit'}"]
    if "roofline" in report:
      line = report["roofline"]
      cells += [f"{1e3 * line['seconds']:.1f}", line["bottleneck"], f"{line['mfu']:.0%}", moved(report),
                f"{len(report['gathers_outside_layers'])}, {len(report['resharded'])}"]
    else:
      cells += [""] * 5
    lines.append(markdown([*cells, round(report["compile_seconds"])]))
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
  flags.DEFINE_list("chips", list(TOPOLOGIES), "Which chips to compile for.", flag_values=values)
  flags.DEFINE_list("models", list(MODELS), "Which configs to compile.", flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Compile what is missing in --folder and write --table."""
  folder, failed = Path(args.folder), []
  todo, saving = rows(args.models, args.chips), saving_rows(args.models, args.chips)
  if args.compile:
    failed = [row for row in todo + saving if not row.path(folder).exists() and not compile_row(folder, row)]
  done = {row: read_json(row.path(folder)) for row in todo + saving if row.path(folder).exists()}
  lines = [line for row in todo if row in done for line in table_lines(row.model, done[row])]
  text = HEADER + "\n" + table(COLUMNS, lines)
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
