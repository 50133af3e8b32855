"""Where commands begin and end: flags are parsed, the work is done, and the exit code says how it went.

  0    done
  2    bad input: a `UserError`, a path that can't be used, or a flag that can't be parsed; one line on stderr
  1    a failed run or a bug; one line on stderr, which names the file with the traceback
  130  Ctrl-C
  141  the reader of the output went away (`| head -1`)

With `--verbosity=1` an error prints its traceback instead.
"""

import contextlib
import dataclasses
import errno
import faulthandler
import json
import os
import re
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from logging import CRITICAL, getLogger
from typing import Any, NoReturn

from absl import flags, logging

from nova_jax.cli.addresses import check_addresses
from nova_jax.cli.flag_help import explain, help_text, name_flags, wants_help
from nova_jax.cli.overrides import config_file, explain_config, explain_override, with_config_files
from nova_jax.cli.renamed import tell_renamed
from nova_jax.parallel.single_host import isolate_host
from nova_jax.storage import as_path
from nova_jax.utils import notes, terminal
from nova_jax.utils.errors import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    READER_GONE,
    UserError,
    error_numbers,
    exit_code,
    shorten,
)

# How errors of reads begin that were under way when another one failed, which has been told.
_OTHER_READS = ("Event loop is closed", "Encountered error while reading array index")

# Modules that not every installation has: the package, and the extra that brings it.
_EXTRAS = {
    "cv2": ("opencv-python-headless", "data"), "pyarrow": ("pyarrow", "data"), "matplotlib": ("matplotlib", "plots")}


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
  """

  main: Callable[..., None]
  define_flags: Callable[[flags.FlagValues], None] | None = None
  required: Sequence[str] = ()
  words: bool = False
  aliases: Mapping[str, str] | None = None
  own_chips: bool = False

  def run(self) -> None:
    """Run as this process's program, with its command line, and exit."""
    run_program(lambda: self.execute(sys.argv))

  def execute(self, argv: Sequence[str]) -> int:
    """Run within a process that goes on, and return the exit code. Any commands can run one after another.

    Args:
      argv: name of the program and its arguments.
    """
    terminal.print_lines()
    argv = with_config_files(argv)
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
      rest = _parse(values, argv)[1:]
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
    return _attempt(lambda: self.main(values, *([rest] if self.words else [])), values, self.aliases)


def run_task(main: Callable[[dict[str, Any]], None]) -> None:
  """Call `main(task)` with the content of the JSON file that the command line names, and exit as `run` does."""

  def task() -> None:
    if len(sys.argv) != 2:
      raise UserError(f"expected one argument, the JSON file of a task, got {len(sys.argv) - 1}")
    main(json.loads(as_path(sys.argv[1]).read_text(encoding="utf-8")))

  def execute_task() -> int:
    terminal.print_lines()
    logging.set_verbosity(logging.ERROR)
    return _attempt(task)

  run_program(execute_task)


def fail(error: BaseException, args: flags.FlagValues | None = None) -> NoReturn:
  """Say what ended a program, as `Command.run` does, and end this process at once, whatever it holds or waits for.

  Args:
    error: what ended it.
    args: values of the command's flags.
  """

  def again() -> None:
    raise error

  try:
    code = _attempt(again, args)
  except KeyboardInterrupt:
    code = INTERRUPTED
  except BaseException:  # With --verbosity=1.
    traceback.print_exc()
    code = FAILED
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      _flush(stream)
  os._exit(code)


def run_program(execute: Callable[[], int]) -> None:
  """Exit with the code that `execute` returns; a bug keeps its traceback."""
  with contextlib.suppress(OSError, RuntimeError, ValueError):  # Standard error is closed, or no file.
    faulthandler.enable()
  logging.use_absl_handler()
  notes.print_once()
  getLogger("asyncio").setLevel(CRITICAL)  # It tells of the same.
  sys.unraisablehook = _without_other_reads(sys.unraisablehook)
  for stream in (sys.stdout, sys.stderr):
    if stream is not None:  # One that was closed before the start.
      stream.reconfigure(errors="backslashreplace")  # A locale such as C has no letters for all that is printed.
  if callable(signal.getsignal(signal.SIGINT)):  # Background jobs of a shell ignore it.
    signal.signal(signal.SIGINT, _interrupt)
  try:
    code = execute()
    _flush(sys.stdout)
  except KeyboardInterrupt:
    code = INTERRUPTED
  except OSError as error:
    code = READER_GONE if error.errno == errno.EPIPE else tell(f"standard output: {error.strerror}", FAILED)
  if code in (0, INTERRUPTED):
    sys.exit(code)  # In order: worker processes and their semaphores are cleaned up. Ctrl-C again doesn't wait for it.
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      _flush(stream)
  # At once: threads that Orbax leaves behind would go on to print tracebacks of the same error.
  os._exit(code)


def _without_other_reads(show: Callable[[Any], None]) -> Callable[[Any], None]:
  """Return a hook that leaves out what Orbax and TensorStore say of reads under way when one of them failed."""

  def hook(unraisable: Any) -> None:
    if not str(unraisable.exc_value).startswith(_OTHER_READS):
      show(unraisable)

  return hook


def _interrupt(*_) -> None:
  """End in order at the first Ctrl-C, and at once at the next one, without tracebacks of what was being ended."""
  signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
  raise KeyboardInterrupt


def _attempt(
    call: Callable[[], None], args: flags.FlagValues | None = None, aliases: Mapping[str, str] | None = None
) -> int:
  """Call a program and return its exit code; say in one line what ended it."""
  try:
    call()
  except SystemExit as error:
    return error.code if isinstance(error.code, int) else 0 if error.code is None else tell(str(error.code), FAILED)
  except Exception as error:
    if _is_of_output(error):
      _flush(sys.stdout)
      return READER_GONE
    if args is not None and args.verbosity > 0:
      raise
    code = exit_code(error)
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
      package, extra = _EXTRAS[error.name]
      return tell(f"{package} is not installed: pip install {package}, or nova_jax with its extra {extra}", BAD_INPUT)
    if code == BAD_INPUT:
      return tell(name_flags(shorten(error), args, aliases), code)
    return tell(_with_traceback(error, is_bug=code is None), FAILED)
  return 0


def _with_traceback(error: Exception, is_bug: bool) -> str:
  """Return one line about an error that is no bad input, and write its traceback into a file that the line names."""
  text = f"{type(error).__name__}: {shorten(error)}; this is a bug of nova_jax, please report it" if is_bug else (
      shorten(error))
  try:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="nova_jax-", suffix=".traceback", delete=False) as file:
      traceback.print_exception(error, file=file)
  except OSError:  # No disk has room; a bug can't do without.
    if is_bug:
      traceback.print_exception(error)
    return text
  return f"{text} (traceback: {file.name})"


def _is_of_output(error: BaseException) -> bool:
  """Whether an error is that of a standard stream whose reader is gone; raises it if it is another one of stdout."""
  if errno.EPIPE in error_numbers(error) and any(map(_has_no_reader, (sys.stdout, sys.stderr))):
    return True
  if isinstance(error, OSError) and error.filename is None and error.errno != errno.EPIPE:
    print()  # If it was stdout that could not be written, it can't be again.
  _flush(sys.stdout)
  return False


def _has_no_reader(stream: Any) -> bool:
  try:
    poll = select.poll()
    poll.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
  except (AttributeError, OSError, TypeError, ValueError):  # There is no stream, or none of the system's.
    return False


def _flush(stream: Any) -> None:
  if stream is not None:
    stream.flush()


def tell(message: str, code: int) -> int:
  """Print why a program ends; return its exit code."""
  with contextlib.suppress(OSError):
    print(f"error: {message}", file=sys.stderr, flush=True)
  return code


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


def _parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
  """Parse flags and return the other arguments; absl and ml_collections each fail in their own ways, over many lines.

  Raises:
    UserError: whatever is wrong with them, in one line.
  """
  value = ""
  try:
    value = config_file(argv)
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
