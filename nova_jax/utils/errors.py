"""Classifies errors by their cause, with an exit code and a one-line message for each class.

`UserError` is bad input: the message says what was given and what to give instead. `RunFailed`, values that are not
finite, and errors of memory, storage and the network have external causes, and the same command may succeed later. Any
other error is a bug in nova_jax.
"""

import errno
import re
from collections.abc import Iterator

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130
READER_GONE = 141

# Error numbers that a wrong path or command causes; other system errors may be temporary.
_BAD_PATH = frozenset((
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EROFS, errno.ENOEXEC))
# XLA's status codes for errors that are not bugs.
_DEVICE_FAILURES = frozenset(("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "DATA_LOSS"))
# TensorStore's words for failures of a bucket.
BUCKET_FAILURES = {
    "PERMISSION_DENIED": errno.EACCES, "UNAUTHENTICATED": errno.EACCES, "NOT_FOUND": errno.ENOENT,
    "UNAVAILABLE": errno.EREMOTEIO, "RESOURCE_EXHAUSTED": errno.EREMOTEIO, "ABORTED": errno.EREMOTEIO,
    "DEADLINE_EXCEEDED": errno.ETIMEDOUT}
_LONGEST = 300  # Largest number of characters shown of an XLA message, which may have pages.
_LONGEST_LINE = 1500  # Largest number of characters of any message, which may quote an untrusted file.


class UserError(ValueError):
  """Bad input. The message is one line that says what was given, what was expected, and what to do."""


class RunFailed(Exception):
  """A run failed for a reason other than bad input."""


def exit_code(error: BaseException) -> int | None:
  """Return the exit code for an error; None for a bug."""
  if isinstance(error, KeyboardInterrupt):
    return INTERRUPTED
  if isinstance(error, (FloatingPointError, TimeoutError, MemoryError, RunFailed)) or _device_failure(error):
    return FAILED
  numbers = set(error_numbers(error))
  if isinstance(error, UserError):
    return BAD_INPUT if numbers <= _BAD_PATH else FAILED
  if isinstance(error, (OSError, ValueError)) and numbers:  # TensorStore reports system errors as ValueErrors.
    return BAD_INPUT if numbers <= _BAD_PATH else FAILED
  return FAILED if isinstance(error, OSError) else None


def _device_failure(error: BaseException) -> str | None:
  """Return XLA's status code for a failure of or between devices; None for other errors, including bugs."""
  if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError"):  # By name, so that JAX need not be imported.
    return None
  word = str(error).partition(":")[0]
  return word if word in _DEVICE_FAILURES else None


def error_numbers(error: BaseException | None) -> Iterator[int]:
  """Yield the system's error numbers of an error and of its causes."""
  while error:
    if isinstance(error, OSError) and error.errno is not None:
      yield error.errno
    elif match := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore puts it into the text of a ValueError.
      yield int(match[1])
    elif isinstance(error, ValueError) and (number := BUCKET_FAILURES.get(str(error).partition(":")[0])):
      yield number
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
  text = text.replace("\\n", " ").replace("\\'", "'")  # ml_collections quotes messages within messages.
  text = text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text
  text = " ".join(text.split()) or type(error).__name__
  if len(text) <= _LONGEST_LINE:
    return text
  return f"{text[: _LONGEST_LINE - 400]} […] {text[-390:]}"  # Advice is often at the end.
