"""Compile for a TPU pod that isn't here, and say what would fit on it.

Example:
  python -m launch.compile --config configs/digits.py --topology v5e:4x4

It prints what each device must hold and move, and how fast the programs can be at best. The exit code is 1 if they
don't fit. All of that is known before the compiler writes machine code, which takes most of the time:
--nomachine_code leaves that out. Kernels are compiled with the machine code alone.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Sequence

from absl import flags

from nova_jax.cli.common_flags import define_config, define_json
from nova_jax.cli.entry import Command
from nova_jax.config import Experiment
from nova_jax.pipeline.request import PRESETS
from nova_jax.storage import as_path
from nova_jax.tools.aot.compiler import OWN_OPTIONS, Options
from nova_jax.tools.aot.programs import WHAT
from nova_jax.tools.aot.report import total_seconds
from nova_jax.tools.aot.search import cheapest_change, compile_all, search
from nova_jax.tools.aot.topology import parse_mesh, parse_topology, prepare_environment
from nova_jax.utils.errors import FAILED, UserError
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import check_writable, write_atomically
from nova_jax.utils.terminal import command

NO_CHANGE = "no change that was tried makes it fit"


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  define_config(values)
  flags.DEFINE_string(
      "topology", None,
      "Slice of the pod, such as v5e:16x16, v4:4x4x4, v5p:4x4x4, v6e:16x16 or tpu7x:4x4x4; *2 behind it means two "
      "slices.",
      flag_values=values)
  flags.DEFINE_string(
      "mesh", None,
      "Number of devices along each axis of the mesh, such as data=1,fsdp=64,tensor=4. Default: the mesh of --config.",
      flag_values=values)
  flags.DEFINE_enum(
      "what", "train", WHAT,
      "Programs to compile: the training steps of all stages (train), a generation (sample), or the decoding of a tile "
      "(decode).", flag_values=values)
  flags.DEFINE_enum(
      "preset", "exact", PRESETS, "Preset that clips are generated with, for --what=sample.", flag_values=values)
  flags.DEFINE_bool(
      "search", False, "Whether to search for the lightest rematerialization that fits, and for the largest batch.",
      flag_values=values)
  flags.DEFINE_multi_string(
      "xla", [], "Option of the compiler, as NAME=VALUE; may be given several times. Example: "
      "--xla xla_tpu_scoped_vmem_limit_kib=65536.", flag_values=values)
  flags.DEFINE_bool(
      "machine_code", True, "Whether to also write machine code, which shows that kernels compile and takes about ten "
      "times as long.", flag_values=values)
  define_json(values)


def main(args: flags.FlagValues) -> None:
  """Compile --config for --topology."""
  prepare_environment()
  experiment, topology = from_dict(Experiment, args.config), parse_topology(args.topology)
  if args.mesh:
    experiment = dataclasses.replace(experiment, mesh=parse_mesh(args.mesh))
  if args.search and args.what != "train":
    raise UserError(f"--search is for training, got --what={args.what}")
  if args.preset != "exact" and args.what != "sample":
    raise UserError(f"--preset is for --what=sample, got --what={args.what}; leave it out")
  options = Options(_parse_xla(args.xla), args.machine_code)
  check_writable("json", args.json)
  say = lambda text: print(text, flush=True)
  result = {"config": dataclasses.asdict(experiment), "topology": topology.name, "what": args.what,
            "preset": args.preset, "xla": dict(options.xla), "machine_code": options.machine_code}
  if args.search:
    result["search"] = search(experiment, topology, say, options)
    for name in ("lightest_remat", "largest_batch"):
      say(f"{name.replace('_', ' ')}: {result['search'][name] or 'none that was tried'}")
    if result["search"]["batch_limit"]:
      say("larger batches were not tried")
    fits = result["search"]["lightest_remat"] is not None
  else:
    result["programs"] = reports = compile_all(
        experiment, topology, args.what, say, options, preset=args.preset)
    fits = all(report["fits"] for report in reports)
    if args.what == "sample" and all("roofline" in report for report in reports):
      samples = max(report["samples"] for report in reports)
      say(f"{samples} generation{'s' * (samples > 1)} with preset {args.preset} take at least "
          f"{total_seconds(reports):.2f} s, sets by their operations beside the largest's")
    if not fits:
      found = cheapest_change(experiment, topology, args.what, say, options, args.preset)
      result["change"] = found[0] if found else None
      say(f"the cheapest change that fits: {found[0]}" if found else
          f"decode in tiles: --space_tile of {command('sample')}" if args.what == "decode" else NO_CHANGE)
  if args.json:
    write_atomically(as_path(args.json), json.dumps(result, indent=1) + "\n")
  sys.exit(0 if fits else FAILED)


def _parse_xla(texts: Sequence[str]) -> dict[str, str]:
  """Parse NAME=VALUE."""
  parsed = {}
  for text in texts:
    name, _, value = text.partition("=")
    if not re.fullmatch(r"\w+=.+", text):
      raise UserError(f"--xla: expected NAME=VALUE, such as xla_tpu_scoped_vmem_limit_kib=65536, got {text!r}")
    if name in OWN_OPTIONS:
      raise UserError(f"--xla: {name} is an option that this command sets itself; leave it out")
    if name in parsed:
      raise UserError(f"--xla: {name} is there twice, as {parsed[name]} and {value}; give each option once")
    parsed[name] = value
  return parsed


COMMAND = Command(main, define_flags, required=("config", "topology"))
