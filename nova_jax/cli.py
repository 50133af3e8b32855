"""How the launchers end: exit code 0, or one clear line on stderr and exit code 2 for bad input, 1 for a failed run.

Bad input is a `ValueError`, a file that can't be used or a flag that can't be parsed; a run fails by a number that is
not finite, by memory that is not enough, by a host that doesn't answer in time, or by storage or a network that fails:
started again, it may succeed. Ctrl-C ends with 130, and a reader of the output that went away (`| head -1`) with 141,
both without a word. Anything else is a bug and keeps its traceback, as do errors with `--verbosity=1`.
"""

import contextlib
import errno
import faulthandler
import json
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from logging import CRITICAL, getLogger
from typing import Any, NoReturn

from absl import flags, logging

from nova_jax import notes
from nova_jax.flag_help import explain, help_text, name_flags, wants_help
from nova_jax.overrides import config_file, explain_config, explain_override

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130
READER_GONE = 141

# What a wrong path or command leads to; other errors of the system may pass.
_BAD_PATH = frozenset((
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EROFS, errno.ENOEXEC))


# XLA's words for what is not a bug.
_DEVICE_FAILURES = frozenset(("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "DATA_LOSS"))
# How errors of reads begin that were under way when another one failed, which has been told.
_OTHER_READS = ("Event loop is closed", "Encountered error while reading array index")
_LONGEST = 300  # Characters of a message of XLA's that are shown; some are pages.
_LONGEST_LINE = 1500  # Characters of any message: it may show what a stranger's file holds.


class RunFailed(Exception):
  """A run failed, and not by bad input."""


def run(
    main: Callable[..., None], required: Sequence[str] = (), words: bool = False,
    aliases: Mapping[str, str] | None = None,
) -> None:
  """Parse the command line, call `main()`, and exit.

  Args:
    main: function that reads `flags.FLAGS`.
    required: names of flags that must be given.
    words: whether `main` takes the list of arguments that aren't flags, and what follows `--`; else there must be none.
    aliases: names of flags that are called otherwise than the setting that errors name, by setting.
  """
  _end(lambda: execute(main, sys.argv, required, words, aliases))


def execute(
    main: Callable[..., None], argv: Sequence[str], required: Sequence[str] = (), words: bool = False,
    aliases: Mapping[str, str] | None = None,
) -> int:
  """Do what `run` does within a process that goes on; return the exit code."""
  if kind := wants_help(argv):
    print(help_text(sys.modules[main.__module__].__doc__, required, full=kind == "helpfull"), end="")
    return 0
  values = flags.FLAGS
  try:
    _check_letters(argv)
    rest = _parse(argv)[1:]
    for name in required:
      if values[name].value in (None, ""):
        raise ValueError(f"--{name} is needed; --help says what it means")
    if rest and not words:
      raise ValueError(f"unexpected argument {rest[0]!r}; flags start with --")
  except ValueError as error:
    return _tell(str(error), BAD_INPUT)
  # absl's own default would show Orbax's every rename, and files that it can do without.
  if values.verbosity <= 0:
    logging.set_verbosity(logging.ERROR)
  return _attempt(lambda: main(rest) if words else main(), values.verbosity > 0, aliases)


def run_task(main: Callable[[dict[str, Any]], None]) -> None:
  """Call `main(task)` with the content of the JSON file that the command line names, and exit as `run` does."""

  def task() -> None:
    if len(sys.argv) != 2:
      raise ValueError(f"expected one argument, the JSON file of a task, got {len(sys.argv) - 1}")
    with open(sys.argv[1], encoding="utf-8") as file:
      values = json.load(file)
    main(values)

  def execute_task() -> int:
    logging.set_verbosity(logging.ERROR)
    return _attempt(task)

  _end(execute_task)


def fail(error: BaseException) -> NoReturn:
  """Say what ended a program, as `run` does, and end this process at once, whatever else it holds or waits for."""

  def again() -> None:
    raise error

  try:
    code = _attempt(again, flags.FLAGS.verbosity > 0)
  except KeyboardInterrupt:
    code = INTERRUPTED
  except BaseException:  # A bug.
    traceback.print_exc()
    code = FAILED
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      _flush(stream)
  os._exit(code)


def _end(execute: Callable[[], int]) -> None:
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
    code = READER_GONE if error.errno == errno.EPIPE else _tell(f"standard output: {error.strerror}", FAILED)
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
    call: Callable[[], None], verbose: bool = False, aliases: Mapping[str, str] | None = None
) -> int:
  """Call a program and return its exit code; say in one line what ended it."""
  try:
    call()
  except SystemExit as error:
    return error.code if isinstance(error.code, int) else 0 if error.code is None else _tell(str(error.code), FAILED)
  except Exception as error:
    if _is_of_output(error):
      _flush(sys.stdout)
      return READER_GONE
    code = exit_code(error)
    if code is None or verbose:
      raise
    text = shorten(error)
    return _tell(name_flags(text, aliases) if code == BAD_INPUT else text, code)
  return 0


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


def _tell(message: str, code: int) -> int:
  """Print why a program ends; return its exit code."""
  with contextlib.suppress(OSError):
    print(f"error: {message}", file=sys.stderr, flush=True)
  return code


def _check_letters(argv: Sequence[str]) -> None:
  """Refuse arguments with letters that the locale lacks: libraries can't be given names that Python could not read."""
  encoding = sys.getfilesystemencoding()
  for argument in argv:
    if encoding != "utf-8" and re.search("[\udc80-\udcff]", argument):
      raise ValueError(
          f"{argument!r} has letters that this locale, {encoding}, does not know; set LC_ALL=C.UTF-8 or PYTHONUTF8=1")


def _parse(argv: Sequence[str]) -> list[str]:
  """Parse flags and return the other arguments; absl and ml_collections each fail in their own ways, over many lines.

  Raises:
    ValueError: whatever is wrong with them, in one line.
  """
  value = ""
  try:
    value = config_file(argv)
    return flags.FLAGS(argv)
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
    text = text or explain_override(argv, value) or isinstance(error, flags.Error) and explain(error) or shorten(error)
  raise ValueError(text)


def exit_code(error: BaseException) -> int | None:
  """Return the exit code for what a program raised; None for a bug."""
  if isinstance(error, KeyboardInterrupt):
    return INTERRUPTED
  if isinstance(error, (FloatingPointError, TimeoutError, MemoryError, RunFailed)) or _device_failure(error):
    return FAILED
  if not isinstance(error, (ValueError, OSError)):
    return None
  numbers = set(error_numbers(error))
  return BAD_INPUT if numbers <= _BAD_PATH and (numbers or isinstance(error, ValueError)) else FAILED


def _device_failure(error: BaseException) -> str | None:
  """Return XLA's word for what failed on a device or between devices; None for other errors, bugs among them."""
  if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError"):  # JAX need not be imported for it.
    return None
  word = str(error).partition(":")[0]
  return word if word in _DEVICE_FAILURES else None


def error_numbers(error: BaseException | None) -> Iterator[int]:
  """Yield the system's numbers for an error and for those that led to it."""
  while error:
    if isinstance(error, OSError) and error.errno is not None:
      yield error.errno
    elif match := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore says it so, in a ValueError.
      yield int(match[1])
    error = error.__cause__ or error.__context__


def shorten(error: BaseException) -> str:
  """Return an error's message in one line."""
  if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}too many files are open; allow more of them with `ulimit -n`"
  if isinstance(error, OSError) and error.filename:
    return f"{error.filename}: {error.strerror}"
  if isinstance(error, MemoryError) or _device_failure(error) == "RESOURCE_EXHAUSTED":
    text = " ".join(str(error).split())
    return f"out of memory: {text[:_LONGEST] or 'this machine has no more'}; use smaller batches, clips or models"
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
  text = text.replace("\\n", " ").replace("\\'", "'")  # ml_collections quotes a message within a message.
  text = text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text
  text = " ".join(text.split()) or type(error).__name__
  if len(text) <= _LONGEST_LINE:
    return text
  return f"{text[: _LONGEST_LINE - 400]} […] {text[-390:]}"  # What to do often stands at the end.
