"""Where commands begin: flags are parsed, and the work is done; `endings.py` has how they end."""

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from absl import flags, logging

from nova_jax.cli.addresses import check_addresses
from nova_jax.cli.endings import attempt, run_program, tell
from nova_jax.cli.flag_help import explain, help_text, wants_help
from nova_jax.cli.overrides import config_file, explain_config, explain_override, with_config_files
from nova_jax.cli.renamed_flags import tell_renamed
from nova_jax.parallel.single_host import isolate_host
from nova_jax.storage import as_path
from nova_jax.utils import terminal
from nova_jax.utils.errors import BAD_INPUT, UserError, shorten


@dataclasses.dataclass(frozen=True)
class Command:
  """A program of the command line; its help is the docstring of the module that defines `main`.

  Attributes:
    main: function that takes the values of the flags and does the work.
    define_flags: function that defines the command's flags in the `FlagValues` that it is given. Each run has new ones.
    required: names of the flags that must be given.
    words: whether `main` also takes a list of the arguments that aren't flags, and of what follows `--`. Otherwise
      such arguments are refused.
    aliases: flag names that differ from the setting's name in error messages, by setting.
    own_chips: whether the command uses the chips of this host alone, also on one of the hosts of a TPU pod.
    configs: kind of config that --config names, as `configs.find` knows it.
  """

  main: Callable[..., None]
  define_flags: Callable[[flags.FlagValues], None] | None = None
  required: Sequence[str] = ()
  words: bool = False
  aliases: Mapping[str, str] | None = None
  own_chips: bool = False
  configs: str = ""

  def run(self) -> None:
    """Run as this process's program, with its command line, and exit."""
    run_program(lambda: self.execute(sys.argv))

  def execute(self, argv: Sequence[str]) -> int:
    """Run within a process that goes on, and return the exit code. Any commands can run one after another.

    Args:
      argv: name of the program and its arguments.
    """
    terminal.print_lines()
    argv = with_config_files(argv, self.configs)
    with _command_line(argv):
      return self._execute(argv)

  def _execute(self, argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    if self.define_flags is not None:
      self.define_flags(values)
    if kind := wants_help(argv):
      doc = sys.modules[self.main.__module__].__doc__
      print(help_text(doc, values, self.required, full=kind == "helpfull"), end="")
      return 0
    values.append_flag_values(flags.FLAGS)  # Those of libraries.
    try:
      _check_letters(argv)
      rest = _parse(values, argv, self.configs)[1:]
      for name in self.required:
        if values[name].value in (None, ""):
          raise UserError(f"--{name} is needed; --help says what it means")
      if rest and not self.words:
        raise UserError(f"unexpected argument {rest[0]!r}; flags start with --")
      check_addresses({name: values[name].value for name in values}, self.main.__module__)
    except UserError as error:
      return tell(str(error), BAD_INPUT)
    tell_renamed(values)
    if self.own_chips:
      isolate_host()
    # absl's own default would show Orbax's every rename, and files that it can do without.
    if values.verbosity <= 0:
      logging.set_verbosity(logging.ERROR)
    return attempt(lambda: self.main(values, *([rest] if self.words else [])), values, self.aliases)


def run_child(main: Callable[[dict[str, Any]], None]) -> None:
  """Call `main(task)` with the content of the JSON file that the command line names, and exit as `run` does."""

  def task() -> None:
    if len(sys.argv) != 2:
      raise UserError(f"expected one argument, the JSON file of a task, got {len(sys.argv) - 1}")
    main(json.loads(as_path(sys.argv[1]).read_text(encoding="utf-8")))

  def execute_task() -> int:
    terminal.print_lines()
    logging.set_verbosity(logging.ERROR)
    return attempt(task)

  run_program(execute_task)


def _check_letters(argv: Sequence[str]) -> None:
  """Refuse arguments with letters that the locale lacks: libraries can't be given names that Python could not read."""
  encoding = sys.getfilesystemencoding()
  for argument in argv:
    if encoding != "utf-8" and re.search("[\udc80-\udcff]", argument):
      raise UserError(
          f"{argument!r} has letters that this locale, {encoding}, does not know; set LC_ALL=C.UTF-8 or PYTHONUTF8=1")


@contextlib.contextmanager
def _command_line(argv: Sequence[str]) -> Generator[None]:
  """Make `argv` this process's command line for a while, as ml_collections needs it.

  It looks in `sys.argv` for fields of --config, and loads a config's file into the module of the one before.
  """
  before = sys.argv
  sys.argv = list(argv)
  sys.modules.pop("config_config", None)
  try:
    yield
  finally:
    sys.argv = before


def _parse(values: flags.FlagValues, argv: Sequence[str], kind: str) -> list[str]:
  """Parse flags and return the other arguments; absl and ml_collections each fail in their own ways, over many lines.

  Args:
    values: flags of the command.
    argv: command line.
    kind: kind of config that the command takes.

  Raises:
    UserError: whatever is wrong with them, in one line.
  """
  value = ""
  try:
    value = config_file(argv, kind)
    rest = values(argv)
    flags.FLAGS.mark_as_parsed()  # Libraries read their flags there.
    return rest
  except SyntaxError as error:
    text = f"{error.filename}:{error.lineno}: {error.msg}"
  except Exception as error:  # A config is a program, which may raise anything.
    path = value.split(":")[0]
    text = explain_config(error, path)
    if text is None and not isinstance(
        error, (flags.Error, AttributeError, IndexError, KeyError, TypeError, ValueError, OSError)):
      raise
    if text is None and str(error).endswith("has no attribute 'get_config'"):
      text = f"--config: {path} has no get_config(); expected a config such as configs/digits.py"
    text = text or explain_override(values, argv, value) or (
        isinstance(error, flags.Error) and explain(error, values)) or shorten(error)
  raise UserError(text)
