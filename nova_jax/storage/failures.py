"""Failures of buckets, as errors like those of a disk."""

import contextlib
import errno
import os
from collections.abc import Generator

_LONGEST = 200  # Characters of a server's message that are told.
# Whose errors say that a bucket could not be reached, whatever they are.
_LIBRARIES = ("aiobotocore", "aiohttp", "botocore", "requests", "urllib3", "google", "gcsfs", "fsspec", "s3fs")


@contextlib.contextmanager
def telling(path: str | os.PathLike) -> Generator[None]:
  """Turn what the libraries of a bucket raise, of many types, into an `OSError` with a number and the address."""
  try:
    yield
  except Exception as error:
    number, text = _explain(error)
    if number is None:
      raise
    raise OSError(number, text, os.fspath(path)) from error


def _explain(error: Exception) -> tuple[int | None, str]:
  """Return the number and the text of a bucket's failure; None for another error."""
  if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
    return None, ""
  code = str(getattr(error, "code", None) or getattr(error, "status", None))
  code = int(code) if code.isdigit() else None
  text = " ".join(str(getattr(error, "message", None) or error).split())[:_LONGEST]
  if isinstance(error, FileNotFoundError) or code == 404:
    return errno.ENOENT, os.strerror(errno.ENOENT)
  if isinstance(error, FileExistsError) or code == 412:
    return errno.EEXIST, os.strerror(errno.EEXIST)
  if type(error).__name__ == "DefaultCredentialsError":
    return errno.EACCES, "no credentials for Google Cloud; run `gcloud auth application-default login`"
  if type(error).__name__ == "NoCredentialsError":
    return errno.EACCES, "no credentials for S3; run `aws configure`"
  if code in (401, 403) or isinstance(error, OSError) and text.startswith("Forbidden"):
    return errno.EACCES, f"no permission ({text.removeprefix('Forbidden: ')})"
  if code is not None and code >= 400:
    return errno.EREMOTEIO, f"the bucket fails with {code} ({text})"
  if type(error).__module__.partition(".")[0] in _LIBRARIES:
    return errno.EREMOTEIO, f"the bucket can't be reached ({type(error).__name__})"
  if isinstance(error, TimeoutError):
    return errno.ETIMEDOUT, "the bucket does not answer"
  return None, ""


