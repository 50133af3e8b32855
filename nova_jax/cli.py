"""How the launchers end: exit code 0, or one clear line on stderr and exit code 2 for bad input, 1 for a failed run.

Bad input is a `ValueError`, a file that can't be used or a flag that can't be parsed; a run fails by a number that is
not finite or by a host that doesn't answer in time. Anything else is a bug and keeps its traceback, as do
errors with `--verbosity=1`.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130


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
  try:
    _check_config_file(argv)
    return flags.FLAGS(argv)
  except SyntaxError as error:
    _exit(f"{error.filename}:{error.lineno}: {error.msg}", BAD_INPUT)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    _exit(shorten(error), BAD_INPUT)


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


def exit_code(error: BaseException) -> int | None:
  """Return the exit code for what a program raised; None for a bug."""
  if isinstance(error, KeyboardInterrupt):
    return INTERRUPTED
  if isinstance(error, (FloatingPointError, TimeoutError)):
    return FAILED
  return BAD_INPUT if isinstance(error, (ValueError, OSError)) else None


def _check_config_file(argv: Sequence[str]) -> None:
  """Raise a ValueError if `--config` names no file: the flag itself would fail later, at its first use."""
  for i, argument in enumerate(argv):
    if argument == "--":
      return
    match = re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL)
    if match:
      value = match[1] if match[1] is not None else argv[i + 1] if i + 1 < len(argv) else ""
      path = value.split(":")[0]
      if not os.path.isfile(path):
        raise ValueError(f"--config: there is no file {path!r}; expected a Python file such as configs/digits.py")


def shorten(error: BaseException) -> str:
  """Return an error's message in one line."""
  if isinstance(error, OSError) and error.filename:
    return f"{error.filename}: {error.strerror}"
  text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
  if text.startswith("Error whilst parsing config file"):
    text = text.splitlines()[-1].partition(": ")[2]  # The last line of a traceback, without the type.
  text = text.replace("\\n", " ").replace("\\'", "'")  # ml_collections quotes a message within a message.
  text = text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text
  return " ".join(text.split()) or type(error).__name__


def _exit(message: str, code: int) -> None:
  print(f"error: {message}", file=sys.stderr, flush=True)
  sys.stdout.flush()
  # At once: threads that Orbax leaves behind would go on to print tracebacks of the same error.
  os._exit(code)
