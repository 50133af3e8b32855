"""Compile the released models for their pods: `python -m benchmarks.pods --folder runs/pods --table docs/pods.md`.

Runs `launch.compile` for each model, pod and program, and writes the table from what it says. Each result is a file in
--folder; those that are there already aren't compiled again, so a run that was stopped goes on. It takes hours on two
cores: a training step a few minutes, the other programs about one each.
"""

import itertools
import subprocess
import sys
from pathlib import Path

from absl import flags

from nova_jax import cli
from nova_jax.aot.chips import GIB
from nova_jax.aot.pods import SAMPLE_MESH, TOPOLOGIES
from nova_jax.aot.programs import WHAT
from nova_jax.files import read_json, write_atomically

MODELS = (
    "nova_d48w768_sdxl1024", "nova_d48w1024_sdxl1024", "nova_d48w1536_sdxl1024", "nova_d48w1024_sd512",
    "nova_d48w1024_osp480")
ON_TWO_SLICES = ("nova_d48w1024_sd512", "nova_d48w1024_osp480")
HEADER = """# Pods

What the TPU compiler says of the released models' configs, by `python -m benchmarks.pods`: nothing was measured on a
TPU. Peak is what a device holds, of what the compiler lets it use. The roofline is the least time that the chip's peak
FLOP/s, HBM and network allow (`nova_jax/aot/report.py`); its utilization (MFU) counts no recomputation.
"""
COLUMNS = ("model", "pod", "mesh", "program", "clips", "peak / limit, GiB", "at least, ms", "bound by", "MFU at most",
           "network, MB", "compiled in, s")

flags.DEFINE_string("folder", None, "Where results are kept, a JSON file each.")
flags.DEFINE_string("table", None, "Markdown file to write.")
flags.DEFINE_list("chips", list(TOPOLOGIES), "Which chips to compile for.")
flags.DEFINE_list("models", list(MODELS), "Which configs to compile.")


def rows(models: list[str], chips: list[str]) -> list[tuple[str, str, str, str]]:
  """Return (config, chip, topology, program) of all rows, those for one v5e pod first."""
  chips = sorted(chips, key=lambda chip: chip != "v5e")
  one = [(model, chip, TOPOLOGIES[chip], what) for chip, what, model in itertools.product(chips, WHAT, models)]
  two = [(model, "v5e", f"{TOPOLOGIES['v5e']}*2", what)
         for what, model in itertools.product(("train", "sample"), ON_TWO_SLICES) if model in models and "v5e" in chips]
  return one + two


def result_path(folder: Path, row: tuple[str, str, str, str]) -> Path:
  """Return where a row's result is kept."""
  model, _, topology, what = row
  return folder / f"{model}-{topology.replace(':', '-').replace('*', '-slices')}-{what}.json"


def compile_row(folder: Path, row: tuple[str, str, str, str]) -> bool:
  """Compile a row; return whether it was compiled, if not always to something that fits."""
  model, chip, topology, what = row
  command = [sys.executable, "-m", "launch.compile", f"--config=configs/{model}.py:{chip}", f"--topology={topology}",
             f"--what={what}", f"--json={result_path(folder, row)}"]
  if what == "sample":
    command.append(f"--mesh={SAMPLE_MESH}")
  print(" ".join(command[1:]), flush=True)
  return subprocess.run(command).returncode in (0, cli.FAILED)


def table_lines(model: str, result: dict) -> list[str]:
  """Return a result as rows of the table, one a program."""
  lines = []
  for report in result.get("programs", ()):
    mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1) or "one device"
    size = report["memory"]
    cells = [model, result["topology"], mesh, report["program"], report["samples"] or "",
             f"{size['peak'] / GIB:.2f} / {size['limit'] / GIB:.2f}{'' if report['fits'] else ', does not fit'}"]
    if "roofline" in report:
      line, moved = report["roofline"], sum(row["bytes"] for row in report["collectives"])
      cells += [f"{1e3 * line['seconds']:.1f}", line["bottleneck"], f"{line['mfu']:.0%}", f"{moved / 1e6:.0f}"]
    else:
      cells += [""] * 4
    lines.append(f"| {' | '.join(map(str, [*cells, round(report['compile_seconds'])]))} |")
  return lines


def main() -> None:
  """Compile what is missing in --folder and write --table."""
  args = flags.FLAGS
  folder, failed = Path(args.folder), []
  todo = rows(args.models, args.chips)
  for row in todo:
    if not result_path(folder, row).exists() and not compile_row(folder, row):
      failed.append(" ".join(row))
  lines = [line for row in todo if result_path(folder, row).exists()
           for line in table_lines(row[0], read_json(result_path(folder, row)))]
  head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
  write_atomically(Path(args.table), "\n".join([HEADER, *head, *lines]) + "\n")
  if failed:
    sys.exit(f"error: {len(failed)} rows did not compile: {', '.join(failed)}")


if __name__ == "__main__":
  cli.run(main, required=("folder", "table"))
