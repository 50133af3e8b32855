"""How programs end: by an exit code, and at most one line on stderr.

  0    done
  2    bad input: a `UserError`, a path that can't be used, or a flag that can't be parsed; one line on stderr
  1    a failed run or a bug; one line on stderr, which names the file with the traceback
  130  Ctrl-C
  141  the reader of the output went away (`| head -1`)

With `--verbosity=1` an error prints its traceback instead.
"""

import contextlib
import errno
import faulthandler
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from logging import CRITICAL, getLogger
from typing import Any, NoReturn

from absl import flags, logging

from nova_jax.cli.flag_help import name_flags
from nova_jax.utils import notes
from nova_jax.utils.errors import BAD_INPUT, FAILED, INTERRUPTED, READER_GONE, error_numbers, exit_code, shorten

# How errors of reads begin that were under way when another one failed, which has been told.
_OTHER_READS = ("Event loop is closed", "Encountered error while reading array index")

# Modules that not every installation has: the package, and the extra that brings it.
_EXTRAS = {"pyarrow": ("pyarrow", "data"), "matplotlib": ("matplotlib", "plots")}


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
    with contextlib.suppress(OSError):  # A stream that takes no more.
      _flush(stream)
  # At once: threads that Orbax leaves behind would go on to print tracebacks of the same error.
  os._exit(code)


def fail(error: BaseException, args: flags.FlagValues | None = None) -> NoReturn:
  """Say what ended a program, as `Command.run` does, and end this process at once, whatever it holds or waits for.

  Args:
    error: what ended it.
    args: values of the command's flags.
  """

  def again() -> None:
    raise error

  try:
    code = attempt(again, args)
  except KeyboardInterrupt:
    code = INTERRUPTED
  except BaseException:  # With --verbosity=1.
    traceback.print_exc()
    code = FAILED
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):  # A stream that takes no more.
      _flush(stream)
  os._exit(code)


def attempt(
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


def tell(message: str, code: int) -> int:
  """Print why a program ends; return its exit code."""
  with contextlib.suppress(OSError):  # Nobody listens, and the code says it too.
    print(f"error: {message}", file=sys.stderr, flush=True)
  return code


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
