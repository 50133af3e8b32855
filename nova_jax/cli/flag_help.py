"""The flags of a command: what `--help` prints about them, and how errors name them.

Invariant: flags of libraries are not a command's own. They are shown by `--helpfull` alone.
"""

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from nova_jax.utils.fields import did_you_mean
from nova_jax.utils.terminal import command

_HELP = ("help", "helpshort", "h", "?")
_NO = ("false", "f", "no", "n", "0")
_PLACEHOLDERS = {"int": "N", "float": "X", "string": "TEXT", "comma separated list of strings": "A,B,...",
                 "config object": "FILE", "multi int": "N", "multi string": "TEXT"}
_CONFIG = """\
Fields of --config are changed by flags of their own: --config.train.steps=100 sets the field `steps` of the part
`train`. An unknown field is refused. The file of --config is a Python program that runs on your machine: use only
files that you trust."""


def wants_help(argv: Sequence[str]) -> str | None:
  """Return "help" or "helpfull" if arguments ask for it, else None; what follows "--" is for another program."""
  for argument in argv[1:]:
    if argument == "--":
      break
    name, _, value = argument.removeprefix("-").removeprefix("-").partition("=")
    if argument.startswith("-") and name in (*_HELP, "helpfull") and value.lower() not in _NO:
      return "helpfull" if name == "helpfull" else "help"
  return None


def command_flags(values: flags.FlagValues) -> list[flags.Flag]:
  """Return the flags that a command defines, in the order of their definition."""
  # Those of libraries were appended, and have no module here.
  found = [flag for own in values.flags_by_module_dict().values() for flag in own]
  return [flag for flag in found if "." not in flag.name]  # Fields of --config are flags, too, once it is read.


def help_text(doc: str | None, values: flags.FlagValues, required: Sequence[str], full: bool = False) -> str:
  """Return what `--help` prints.

  Args:
    doc: docstring of the command.
    values: flags of the command.
    required: names of flags that must be given.
    full: whether the flags of libraries follow.
  """
  width = min(shutil.get_terminal_size((100, 24)).columns, 120)
  own = command_flags(values)
  before = command("")
  sections = [(doc or "").strip().replace("python -m launch.", before)]
  if not before.endswith("launch."):
    sections = [sections[0].replace("launch.", before)]
  for title, chosen in (
      ("Required flags:", [flag for flag in own if flag.name in required]),
      ("Flags:", [flag for flag in own if flag.name not in required])):
    if chosen:
      sections.append("\n".join([title, *(_describe(flag, width) for flag in chosen)]))
  if any(flag.name == "config" for flag in own):
    sections.append(_CONFIG)
  sections.append("--help prints this text, --helpfull also the flags of libraries, and --verbosity=1 shows the whole "
                  "traceback of an error.")
  if full:
    sections.append("Flags of libraries:\n" + "\n".join(
        _describe(flag, width) for module, found in sorted(flags.FLAGS.flags_by_module_dict().items())
        for flag in found))
  return "\n\n".join(sections) + "\n"


def _describe(flag: flags.Flag, width: int) -> str:
  text = explanation(flag)
  if flag.default not in (None, "", False) and "efault" not in text:
    text += f" Default: {_show(flag.default)}."
  lines = textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ", break_on_hyphens=False)
  return "\n".join([f"  {_usage(flag)}", *lines])


def explanation(flag: flags.Flag) -> str:
  """Return the help of a flag as it was written: absl adds choices, and how values are repeated."""
  text = " ".join((flag.help or "").split())
  return re.sub(r"^<[^>]*>: |;? \(a comma separated list\)$|; repeat this option to specify a list.*", "", text)


def _usage(flag: flags.Flag) -> str:
  if flag.boolean:
    return f"--[no]{flag.name}"
  choices = getattr(flag.parser, "enum_values", None)
  return f"--{flag.name}={'|'.join(choices) if choices else _PLACEHOLDERS.get(flag.flag_type(), 'VALUE')}"


def _show(value: Any) -> str:
  if value is True:
    return "on"
  return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def explain(error: flags.Error, values: flags.FlagValues) -> str | None:
  """Return what is wrong with a command line, the flag first; None if the error says that best itself."""
  text = str(error)
  if isinstance(error, flags.UnrecognizedFlagError):
    return f"--{error.flagname} is not a flag{_suggest(error.flagname, values)}"
  if match := re.fullmatch(r"Missing value for flag (-.*)", text):
    return f"{match[1]}: expected a value behind it, got none"
  match = re.match(r"flag --([\w.]+)=(.*?): ", text, re.DOTALL)
  expected = _expected(values[match[1]]) if match and match[1] in values else ""
  return f"--{match[1]}: expected {expected}, got {match[2]!r}" if expected else None


def _expected(flag: flags.Flag) -> str:
  if choices := getattr(flag.parser, "enum_values", None):
    return f"one of {', '.join(choices)}"
  if flag.boolean:
    return "true or false"
  return getattr(flag.parser, "syntactic_help", "").replace("an integer", "a whole number")


def _suggest(name: str, values: flags.FlagValues) -> str:
  """Return the hint that ends an error about an unknown flag."""
  names = [flag.name for flag in command_flags(values)]
  hint = did_you_mean(name, names)
  if "did you mean" not in hint:
    return "; --help lists the flags"
  return re.sub(r"'(\w+)'", r"--\1", hint)


def name_flags(text: str, args: flags.FlagValues | None, aliases: Mapping[str, str] | None = None) -> str:
  """Return an error's text with the flag in place of the setting or the field of --config that it begins with.

  Args:
    text: an error such as "num_frames: expected at least 1, got 0", or one about several, "image and video: ...".
    args: values of the command's flags; None for a program that has none.
    aliases: names of flags that are called otherwise than their setting, by setting.
  """
  if args is None:
    return text
  own, aliases = {flag.name for flag in command_flags(args)}, aliases or {}
  if match := re.match(r"\w+(?:(?:, | and | or )\w+)*(?=[:=])", text):
    names = [aliases.get(name, name) for name in re.findall(r"\w+", match[0]) if name not in ("and", "or")]
    if own.issuperset(names) and not _is_in_a_list(names, args):
      renamed = re.sub(r"\w+", lambda m: m[0] if m[0] in ("and", "or") else f"--{aliases.get(m[0], m[0])}", match[0])
      return renamed + text[match.end():]
  if "config" in own:
    if re.match(r"config[.:]", text):
      return f"--{text}"
    if (match := re.match(r"[\w.\[\]]+", text)) and _is_field(match[0], args):
      return f"--config.{text}"
  return text


def _is_in_a_list(names: Sequence[str], args: flags.FlagValues) -> bool:
  """Return whether settings may be those of a line of --prompts: there is such a file, and no flag says them."""
  return "prompts" in args and bool(args.prompts) and not any(args[n].present for n in names)


def _is_field(path: str, args: flags.FlagValues) -> bool:
  """Return whether the config that was read has a field at `path`."""
  try:
    value = args.config
    for name in path.partition("[")[0].split("."):
      value = value[name]
  except (AttributeError, KeyError, TypeError, ValueError, flags.Error):
    return False
  return True
