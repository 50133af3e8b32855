"""Least seconds a clip on one TPU chip, by preset: `python -m benchmarks.clip_seconds --folder runs/clip_seconds`.

Compiles the generation of the released models with the settings that their folders bring (64 sets of 25 diffusion
steps), as `launch.compile --what sample --preset NAME` does with those of a config, and prints a table in Markdown.
Results are kept in --folder, a JSON file each; the same command goes on with those that are missing.
"""

import dataclasses
import importlib
from pathlib import Path

from absl import flags

from benchmarks.pods import MODELS, table
from nova_jax.cli import Command
from nova_jax.config import Experiment, MeshConfig, SampleConfig
from nova_jax.storage import as_path
from nova_jax.tools.aot.compiler import Options
from nova_jax.tools.aot.report import total_seconds
from nova_jax.tools.aot.search import compile_all
from nova_jax.tools.aot.topology import parse_topology, prepare_environment
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import read_json, write_atomically

CHIPS = {"v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1"}
SHOWN = ("exact", "fast", "faster")


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("folder", None, "Where results are kept, a JSON file each.", flag_values=values)
  flags.DEFINE_list("models", list(MODELS), "Which configs to compile.", flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Compile what is missing, and print the table."""
  prepare_environment()
  folder, lines = Path(args.folder), []
  folder.mkdir(parents=True, exist_ok=True)
  for model in args.models:
    for chip in CHIPS:
      found = [seconds(folder, model, chip, preset) for preset in SHOWN]
      lines.append(f"| {model} | {chip} | " + " | ".join(f"{each:.2f}" for each in found) + " |")
  print(table(("model", "chip", *SHOWN), lines))


def seconds(folder: Path, model: str, chip: str, preset: str) -> float:
  """Return the least seconds of one clip, or picture, of a released model on one chip."""
  path = as_path(folder) / f"{model}-{chip}-{preset}.json"
  if not path.exists():
    experiment = from_dict(Experiment, importlib.import_module(f"nova_jax.configs.{model}").get_config(chip))
    experiment = dataclasses.replace(experiment, mesh=MeshConfig(data=1, fsdp=1), sample=SampleConfig())
    reports = compile_all(
        experiment, parse_topology(CHIPS[chip]), "sample", lambda line: print(line, flush=True),
        Options(machine_code=False), preset=preset)
    write_atomically(path, f'{{"seconds": {total_seconds(reports)}}}\n')
  return read_json(path)["seconds"]


if __name__ == "__main__":
  Command(main, define_flags, required=("folder",)).run()
