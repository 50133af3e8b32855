"""Several processes as one run, on JAX's own service: how they join, wait for each other, agree, and end.

Invariant: no process outlives another one that was killed, failed or went silent by more than 40 seconds. Without
`session`, or with one process, all functions here do nothing.
"""

import contextlib
import ipaddress
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from nova_jax.parallel import supervisor
from nova_jax.parallel.supervisor import AUTO, CONNECT_TIMEOUT, Place
from nova_jax.utils.errors import FAILED, RunFailed, UserError, shorten

LOST_AFTER = 30  # Seconds of silence after which a process is lost; process 0 is missed at once.
BARRIER_TIMEOUT = 1800.0  # Seconds: one process may have a dataset to write meanwhile.
_BIND_ADDRESS = "JAX_COORDINATOR_BIND_ADDRESS"
_hosts: list[str] = []


@contextlib.contextmanager
def session(
    where: Place | None, fail: Callable[[BaseException], NoReturn], timeout: float = CONNECT_TIMEOUT,
) -> Iterator[None]:
  """Be one of several processes in the code within; must come before any JAX device is touched.

  An error within ends this process at once, after it is said: JAX would wait for the others, who wait for this one.

  Args:
    where: see `supervisor.place`; None is alone. Any other comes after `supervisor.supervise`.
    fail: function that tells an error and ends this process.
    timeout: seconds to wait for the others.

  Raises:
    ValueError: process 0 can't have the port, or JAX can't find out where this process stands.
  """
  if where is None:
    yield
    return
  try:
    _join(where, timeout)
    yield
    barrier("end")
    jax.distributed.shutdown()
  except BaseException as error:
    fail(_explained(error))


def _join(where: Place, timeout: float) -> None:
  bind = None
  if not where.address:
    os.environ.pop(supervisor.ADDRESS, None)  # JAX would take its "auto" for a host.
  elif where.process == 0 and _BIND_ADDRESS not in os.environ:  # Else JAX obeys that.
    bind = _bind_address(where.address)
  try:
    jax.distributed.initialize(
        *where, cluster_detection_method="deactivate" if where.address else None, coordinator_bind_address=bind,
        initialization_timeout=int(timeout), heartbeat_timeout_seconds=LOST_AFTER, shutdown_timeout_seconds=LOST_AFTER)
  except Exception as error:  # Of whatever kind: it asks servers and parses what they say.
    if where.address:
      raise
    raise UserError(f"--coordinator={AUTO}: {shorten(error)} JAX finds out on TPU VMs, GKE, Slurm and Open MPI; "
                     "elsewhere give HOST:PORT") from None


def _bind_address(address: str) -> str | None:
  """Return where process 0 is to listen: at its address and no other, or None for all that this machine has.

  Raises:
    ValueError: it can't; JAX would crash.
  """
  host, _, port = address.rpartition(":")
  try:
    family, *_, found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    # Debian gives a machine's own name such an address, at which other machines can't reach it.
    own_name = host != "localhost" and host[0].isalpha() and ipaddress.ip_address(found[0]).is_loopback
    socket.create_server(("", int(port)) if own_name else found[:2], family=family).close()
  except OSError as error:
    reason = error.strerror.partition(" (")[0]
    raise UserError(f"--coordinator {address}: process 0 can't listen there: {reason}; "
                     f"{_BIND_ADDRESS} may name another address of this machine") from None
  if own_name:
    return None
  return f"[{found[0]}]:{port}" if family == socket.AF_INET6 else f"{found[0]}:{port}"


def _explained(error: BaseException) -> BaseException:
  """Return what to say of an error; it doesn't return if the error comes from the loss of another process."""
  if isinstance(error, FloatingPointError):  # Computed by all, and raised by all: process 0 says it.
    with contextlib.suppress(TimeoutError):
      barrier("failed", 10.0)
    if not is_first():
      os._exit(FAILED)
  text = str(error)
  if "Gloo" in text or (isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in text):
    # A collective that breaks off is the first to notice a loss. JAX will abort this process, and say which it is.
    time.sleep(LOST_AFTER + 10)
    return RunFailed(text) if "Gloo" in text else error
  return error


def meet() -> None:
  """Learn the hosts of all processes; comes after `compilation_cache.use`, since it runs the first program.

  Raises:
    ValueError: this is a host of several, such as those of a TPU pod, that hasn't joined the others.
  """
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise UserError(f"this is one of {jax.process_count()} hosts: give --coordinator={AUTO}, on all of them")
  _hosts[:] = gathered(socket.gethostname())
  supervisor.report(_hosts)


def is_first() -> bool:
  """Return whether this is process 0, which writes what all share."""
  return jax.process_index() == 0


def barrier(name: str, timeout: float = BARRIER_TIMEOUT) -> None:
  """Wait until all processes are here.

  Raises:
    TimeoutError: some aren't in time; the error names them.
  """
  try:
    multihost.get_barrier_sync_fn()(key=name, timeout_ms=int(timeout * 1000))
  except jax.errors.JaxRuntimeError as error:
    if "Barrier timed out" not in str(error):
      raise
    who = supervisor.name(supervisor.lost(str(error)), _hosts, jax.process_count())
    raise TimeoutError(f"{who} did not come to the barrier {name!r} in {timeout:g} s") from None


@contextlib.contextmanager
def first_alone(name: str) -> Iterator[None]:
  """Let process 0 do what is within before the others do; errors as of `barrier`."""
  if not is_first():
    barrier(name)
  yield
  if is_first():
    barrier(name)


def same(value: Any) -> Any:
  """Return process 0's value (of JSON) on all processes."""
  return gathered(value)[0]


def gathered(value: Any) -> list[Any]:
  """Return the values (of JSON) of all processes, in their order; all of them wait for the last one."""
  if jax.process_count() == 1:
    return [value]
  text = json.dumps(value).encode()
  # A power of two of bytes, for a program that runs again; zeros don't occur in JSON.
  size = 1 << int(multihost_utils.process_allgather(np.int32(len(text))).max()).bit_length()
  rows = multihost_utils.process_allgather(np.frombuffer(text.ljust(size, b"\0"), np.uint8))
  return [json.loads(row.tobytes().rstrip(b"\0")) for row in rows]
