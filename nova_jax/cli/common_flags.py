"""Flags that several commands have; those that pick a model and a checkpoint of it are in `checkpoint_flags.py`."""

from absl import flags
from ml_collections import config_flags


def define_config(values: flags.FlagValues, example: str = "configs/digits.py") -> None:
  """Define --config, and with it the flags --config.FIELD."""
  config_flags.DEFINE_config_file(
      "config", None, f"Python file with get_config(), such as {example}; it is run.", flag_values=values)


def define_json(values: flags.FlagValues) -> None:
  """Define --json."""
  flags.DEFINE_string("json", None, "JSON file that all numbers are written to.", flag_values=values)


def define_shard(values: flags.FlagValues) -> None:
  """Define --shard."""
  flags.DEFINE_string(
      "shard", "0/1", "Part of the work to do, I/N: the part number I, counted from 0, of N parts.", flag_values=values)


def define_compilation_cache(values: flags.FlagValues, on_cpu: bool = True) -> None:
  """Define --compilation_cache; `on_cpu` says whether the default keeps programs on CPU as well."""
  auto = "auto is a folder below ~/.cache" + (
      "" if on_cpu else ", the folder programs in --workdir for several processes, or none on CPU")
  flags.DEFINE_string(
      "compilation_cache", "auto",
      f"Folder or gs:// address that keeps compiled programs for the next start; {auto}, and off keeps none.",
      flag_values=values)
