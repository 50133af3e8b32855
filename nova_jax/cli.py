"""How the launchers end: exit code 0, or one clear line on stderr and exit code 2 for bad input, 1 for a failed run.

Bad input is a `ValueError`, a file that can't be used or a flag that can't be parsed; a run fails by a number that is
not finite, by a host that doesn't answer in time, or by storage or a network that fails: started again, it may succeed.
Anything else is a bug and keeps its traceback, as do errors with `--verbosity=1`.
"""

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130

# What a wrong path or command leads to; other errors of the system may pass.
_BAD_PATH = frozenset((
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EROFS, errno.ENOEXEC))


class RunFailed(Exception):
  """A run failed, and not by bad input."""


def run(main: Callable[..., None], required: Sequence[str] = (), words: bool = False) -> None:
  """Parse flags, call `main()`, and exit.

  Args:
    main: reads `flags.FLAGS`.
    required: names of flags that must be given.
    words: `main` takes the list of arguments that aren't flags, and what follows `--`; else there must be none.
  """
  flags.mark_flags_as_required(required)
  try:
    app.run(lambda argv: _call(main, argv, words), flags_parser=_parse)
  except KeyboardInterrupt:
    sys.exit(INTERRUPTED)


def _parse(argv: Sequence[str]) -> list[str]:
  """Parse flags; absl and ml_collections each fail in their own ways, some over many lines."""
  path = ""
  try:
    path = _config_file(argv)
    return flags.FLAGS(argv)
  except SyntaxError as error:
    _exit(f"{error.filename}:{error.lineno}: {error.msg}", BAD_INPUT)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    text = shorten(error)
    if text.endswith("has no attribute 'get_config'"):
      text = f"--config: {path} has no get_config(); expected a config such as configs/digits.py"
    elif text.startswith("get_config() takes 0 positional arguments"):
      text = f"--config: {path} takes nothing behind a colon"
    _exit(text, BAD_INPUT)


def _call(main: Callable[..., None], argv: Sequence[str], words: bool) -> None:
  # absl's own default would show Orbax's every rename, and files that it can do without.
  if flags.FLAGS.verbosity <= 0:
    logging.set_verbosity(logging.ERROR)
  if len(argv) > 1 and not words:
    _exit(f"unexpected argument {argv[1]!r}; flags start with --", BAD_INPUT)
  try:
    main(argv[1:]) if words else main()
  except Exception as error:
    code = exit_code(error)
    if code is None or flags.FLAGS.verbosity > 0:
      raise
    _exit(shorten(error), code)


def run_task(main: Callable[[dict[str, Any]], None]) -> None:
  """Call `main(task)` with the content of the JSON file that the command line names, and exit as `run` does."""
  logging.set_verbosity(logging.ERROR)
  try:
    if len(sys.argv) != 2:
      raise ValueError(f"expected one argument, the JSON file of a task, got {len(sys.argv) - 1}")
    with open(sys.argv[1], encoding="utf-8") as file:
      task = json.load(file)
    main(task)
  except KeyboardInterrupt:
    sys.exit(INTERRUPTED)
  except Exception as error:
    code = exit_code(error)
    if code is None:
      raise
    _exit(shorten(error), code)


def exit_code(error: BaseException) -> int | None:
  """Return the exit code for what a program raised; None for a bug."""
  if isinstance(error, KeyboardInterrupt):
    return INTERRUPTED
  if isinstance(error, (FloatingPointError, TimeoutError, RunFailed)):
    return FAILED
  if not isinstance(error, (ValueError, OSError)):
    return None
  numbers = set(error_numbers(error))
  return BAD_INPUT if numbers <= _BAD_PATH and (numbers or isinstance(error, ValueError)) else FAILED


def error_numbers(error: BaseException | None) -> Iterator[int]:
  """Yield the system's numbers for an error and for those that led to it."""
  while error:
    if isinstance(error, OSError) and error.errno is not None:
      yield error.errno
    elif match := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore says it so, in a ValueError.
      yield int(match[1])
    error = error.__cause__ or error.__context__


def _config_file(argv: Sequence[str]) -> str:
  """Return the file that the last `--config` names, or ""; without it the flag would fail later, at its first use.

  Raises:
    ValueError: there is no such file.
  """
  path = ""
  for i, argument in enumerate(argv):
    if argument == "--":
      break
    match = re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL)
    if match:
      value = match[1] if match[1] is not None else argv[i + 1] if i + 1 < len(argv) else ""
      path = value.split(":")[0]
      if not os.path.isfile(path):
        raise ValueError(f"--config: there is no file {path!r}; expected a Python file such as configs/digits.py")
  return path


def shorten(error: BaseException) -> str:
  """Return an error's message in one line."""
  if isinstance(error, OSError) and error.filename:
    return f"{error.filename}: {error.strerror}"
  text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
  if "Error whilst parsing config file" in text:
    # What stands at the end of a traceback, without the type.
    last = text.rpartition("Traceback (most recent call last):")[2]
    text = re.sub(r".*?^[\w.]+: ", "", last, count=1, flags=re.DOTALL | re.MULTILINE)
  text = text.replace("\\n", " ").replace("\\'", "'")  # ml_collections quotes a message within a message.
  text = text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text
  return " ".join(text.split()) or type(error).__name__


def _exit(message: str, code: int) -> None:
  print(f"error: {message}", file=sys.stderr, flush=True)
  sys.stdout.flush()
  # At once: threads that Orbax leaves behind would go on to print tracebacks of the same error.
  os._exit(code)
