"""The library `huggingface_hub`, imported when it is needed, and one line for each of its many failures."""

import contextlib
import errno
import logging
import socket
from collections.abc import Generator
from types import ModuleType
from typing import Any

from nova_jax.utils.errors import RunFailed, UserError

_LOGIN = "log in by `hf auth login`, or set HF_TOKEN"
_LONGEST = 200  # Characters of a server's message that are told.


def hub_library() -> ModuleType:
  """Import and return the library.

  Raises:
    UserError: it is not installed, or too old.
  """
  try:
    import huggingface_hub
    from huggingface_hub import get_cached_repo_tree  # noqa: F401 (whatever is older lacks it)
  except ImportError:
    raise UserError(
        "models of the Hugging Face hub need the package huggingface_hub, 2.4 or later: pip install huggingface_hub"
    ) from None
  logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # What it warns of is told in one line here.
  return huggingface_hub


def absent(name: object, what: str = "it") -> str:
  """Return the line about a model that the cache lacks, when the hub may not be asked."""
  library = hub_library()
  if library.is_offline_mode():
    why = "HF_HUB_OFFLINE forbids asking the hub: unset it, or give a folder"
  else:
    why = f"only what you name yourself is downloaded: give {name} (--checkpoint, --autoencoder), or a folder"
  return f"{name}: the cache {library.constants.HF_HUB_CACHE} lacks {what}, and {why}"


@contextlib.contextmanager
def telling(name: object, repo: str, *, sends: bool = False) -> Generator[None]:
  """Turn failures of the library into errors of one line.

  Args:
    name: how the user named the model.
    repo: ORG/NAME of it.
    sends: whether something is sent to the hub, so that no folder could stand in its place.

  Raises:
    UserError: what the user can mend: the name, or the token.
    RunFailed: what the user can't: the hub or the network fails.
  """
  failure = None
  try:
    yield
  except Exception as error:
    failure = _explain(error, str(name), repo, sends)
    if failure is None:
      raise
  if failure is not None:
    try:
      raise failure
    finally:
      failure.__context__ = None  # Whose numbers would decide the exit code.


def _explain(error: BaseException, name: str, repo: str, sends: bool) -> Exception | None:
  """Return the error that says in one line what another one means; None for one that says so itself.

  Args:
    error: raised by the library.
    name: how the user named the model.
    repo: ORG/NAME of it.
    sends: whether something is sent to the hub.
  """
  library = hub_library()
  endpoint, errors = library.constants.ENDPOINT, library.errors
  start = f"{name}: " if sends else f"there is no folder {name}, and "
  cause = error.__cause__
  if isinstance(error, (errors.RevisionResolutionError, errors.LocalEntryNotFoundError)):
    return UserError(absent(name)) if cause is None else _explain(cause, name, repo, sends)
  if isinstance(error, errors.LocalTokenNotFoundError):
    return UserError(f"{name}: the hub ({endpoint}) asks who you are; {_LOGIN}")
  if isinstance(error, RuntimeError) and cause is not None:  # So it tells which file could not be uploaded.
    return _explain(cause, name, repo, sends)
  if isinstance(error, errors.OfflineModeIsEnabled):
    return UserError(absent(name))
  if isinstance(error, errors.GatedRepoError):
    return UserError(f"{name}: the owner asks you to accept terms first, at {endpoint}/{repo}; then {_LOGIN}")
  if isinstance(error, errors.RepositoryNotFoundError):
    return UserError(
        f"{start}there is no model {repo} on the hub ({endpoint}) that you may see; if it is private, {_LOGIN}")
  if isinstance(error, errors.RevisionNotFoundError):
    return UserError(f"{name}: {repo} has no such branch, tag or commit on the hub; see {endpoint}/{repo}/commits/main")
  if isinstance(error, errors.HfHubHTTPError):
    return _explain_status(error, name, endpoint)
  if type(error).__module__.startswith("httpx"):
    what = " ".join(str(error).split())[:_LONGEST] or "no answer"
    if _is_unknown_host(error):
      advice = "push from where there is a network" if sends else (
          f"download the model where there is a network, by `hf download {repo}`, and give the folder that this prints")
      return UserError(f"{start}this machine finds no hub at {endpoint} ({what}); {advice}, or set HF_ENDPOINT")
    return RunFailed(
        f"{start}the hub ({endpoint}) can't be reached ({type(error).__name__}: {what}); the same command continues "
        "when it can")
  if isinstance(error, errors.HFValidationError):
    return UserError(f"{name}: {error}")
  if isinstance(error, OSError) and error.errno is None:
    return RunFailed(f"{name}: {' '.join(str(error).split())[:_LONGEST]}; the same command continues")
  if isinstance(error, OSError) and error.errno == errno.ENOSPC:
    return RunFailed(
        f"{name}: the disk of the cache {library.constants.HF_HUB_CACHE} is full; free some of it, or set HF_HOME to a "
        "folder on another one")
  return None


def _is_unknown_host(error: BaseException | None) -> bool:
  """Return whether an error comes from a host name that does not exist: no later try finds it."""
  while error is not None and not isinstance(error, socket.gaierror):
    error = error.__cause__ or error.__context__
  return error is not None and error.errno == socket.EAI_NONAME


def _explain_status(error: Any, name: str, endpoint: str) -> Exception:
  """Return the error for an answer of the hub with a status that has no class of its own in the library."""
  status = error.response.status_code
  said = " ".join((error.server_message or "").split())[:_LONGEST]
  said = f" ({said})" if said else ""
  if status == 401:
    return UserError(f"{name}: the hub ({endpoint}) does not know your token{said}; {_LOGIN}, with a valid one")
  if status == 403:
    return UserError(f"{name}: your token may not do this on the hub ({endpoint}){said}; {_LOGIN}, with one that may")
  if status in (400, 409, 422):
    return UserError(f"{name}: the hub ({endpoint}) refuses this with status {status}{said}")
  return RunFailed(f"{name}: the hub ({endpoint}) fails with status {status}{said}; the same command continues later")
