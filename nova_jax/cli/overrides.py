"""The file of --config and the flags that change its fields: what is wrong with them, in one line.

ml_collections reads both. It says neither which flag is wrong, nor where in a config file an error was raised.
"""

import os
import re
import traceback
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict

from nova_jax import configs
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean


def with_config_files(argv: Sequence[str], kind: str = "") -> list[str]:
  """Return a command line whose `--config` is the path of a file, also where it named one that comes with the package.

  Args:
    argv: command line; what `--config` says may have an argument of the config behind a colon.
    kind: kind of config that the command takes, as `configs.find` knows it.
  """
  argv = list(argv)
  for i, (_, value) in options(argv, "config"):
    name, *argument = value.split(":", 1)
    path = ":".join([configs.find(name, kind), *argument])
    argv[i] = argv[i].removesuffix(value) + path
  return argv


def config_file(argv: Sequence[str], kind: str = "") -> str:
  """Return what the last `--config` says, FILE or FILE:ARGUMENT, or ""; checked here, since its flag fails late.

  Args:
    argv: command line.
    kind: kind of config that the command takes, as `configs.find` knows it.

  Raises:
    UserError: there is no such file.
  """
  value = ""
  for _, (name, value) in options(argv, "config"):
    path = value.split(":")[0]
    if not os.path.isfile(path):
      what, example = ("sweep", "guidance") if kind == "sweeps" else ("config", "digits")
      typed = configs.plain_name(path).removeprefix(f"{kind}/")
      hint = did_you_mean(typed, configs.names(kind)) if re.fullmatch(r"\w+", typed) else f", such as {example}"
      raise UserError(
          f"--{name}: there is no file {path!r}; expected a Python file such as "
          f"{'/'.join(filter(None, ('configs', kind, example)))}.py, or the name of a {what} that comes with "
          f"nova_jax{hint}")
    if path.endswith(".json"):
      raise UserError(f"--{name}: {path} is JSON; expected the Python file that the run was started with")
  return value


def options(argv: Sequence[str], pattern: str) -> Iterator[tuple[int, tuple[str, str]]]:
  """Yield each flag whose name is of a pattern: the index of the argument that ends with its value; name and value."""
  for i, argument in enumerate(argv):
    if argument == "--":
      return
    if match := re.fullmatch(rf"--?({pattern})(?:=(.*))?", argument, re.DOTALL):
      if match[2] is not None:
        yield i, (match[1], match[2])
      else:
        yield min(i + 1, len(argv) - 1), (match[1], argv[i + 1] if i + 1 < len(argv) else "")


def explain_config(error: Exception, path: str) -> str | None:
  """Return what an error says that a config file raised, with its line; None for errors of other origin."""
  if "Error whilst parsing config file" in str(error):
    # What stands at the end of a traceback, without the type.
    last = str(error).rpartition("Traceback (most recent call last):")[2]
    text = " ".join(re.sub(r".*?^[\w.]+: ", "", last, count=1, flags=re.DOTALL | re.MULTILINE).split())
    if text.startswith("get_config() takes 0 positional arguments"):
      return f"--config: {path} takes nothing behind a colon"
    return text
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if path and os.path.abspath(frame.filename) == os.path.abspath(path)]
  return f"{path}:{lines[-1]}: {type(error).__name__}: {' '.join(str(error).split())}" if lines else None


def explain_override(values: flags.FlagValues, argv: Sequence[str], value: str) -> str | None:
  """Return what is wrong with the first flag that names no field of the config; None if all of them do.

  Args:
    values: flags of the command.
    argv: command line.
    value: what `--config` says; the file can be read.
  """
  overrides = list(options(argv, r"config\.[^=]*"))
  if not overrides or not value:
    return None
  config = values["config"].parser.parse(value)
  for _, (name, _) in overrides if isinstance(config, ConfigDict) else ():
    if wrong := _find(config, name.removeprefix("config.")):
      return f"--{name}: {wrong}"
  return None


def _find(config: ConfigDict, path: str) -> str | None:
  """Return why a config has no field at a path such as "train.stages[0].batch_size"; None if it has one."""
  if not re.fullmatch(r"\w+(\.\w+|\[-?\d+\])*", path):
    return "expected names with dots between them, and [0] behind that of a list"
  value, done = config, ""
  for index, name in re.findall(r"\[(-?\d+)\]|(\w+)", path):
    if isinstance(value, (list, tuple)):
      if name:
        return f"{done} is a list; its first element is {done}[0]"
      if not -len(value) <= int(index) < len(value):
        return "the config has no such element; lists are made longer in the config file, not by a flag"
      value, done = value[int(index)], f"{done}[{index}]"
    elif index or not isinstance(value, ConfigDict):
      return f"{done} is neither a list nor a part with fields"
    elif name not in value:
      return f"{name} is not a field of {done or 'the config'}{did_you_mean(name, list(value))}"
    else:
      value, done = value[name], f"{done}.{name}".removeprefix(".")
  if isinstance(value, ConfigDict):
    return f"it is a part with fields; set one of them, such as --config.{path}.{next(iter(value), 'name')}"
  return None
