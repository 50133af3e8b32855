"""Multi-process runs on JAX's distributed service: how processes join, synchronise, exchange values and end.

Invariant: when a process is killed, fails or stops responding, all others end within 40 seconds. In a single-process
run the functions here return at once.
"""

import contextlib
import ipaddress
import json
import os
import socket
import time
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from nova_jax.parallel import supervisor
from nova_jax.parallel.supervisor import AUTO, CONNECT_TIMEOUT, ProcessSpec
from nova_jax.utils.errors import FAILED, RunFailed, UserError, shorten

LOST_AFTER = 30  # Seconds without a heartbeat after which a process counts as lost. Process 0 is missed at once.
BARRIER_TIMEOUT = 1800.0  # Seconds; one process may be writing a dataset meanwhile.
_BIND_ADDRESS = "JAX_COORDINATOR_BIND_ADDRESS"
_hosts: list[str] = []


@contextlib.contextmanager
def session(
    spec: ProcessSpec | None, fail: Callable[[BaseException], NoReturn], timeout: float = CONNECT_TIMEOUT,
) -> Generator[None]:
  """Join the other processes of the run for the code within; call it before any JAX device is used.

  An error within is reported and ends this process at once. Otherwise JAX would wait for the other processes, which
  wait for this one.

  Args:
    spec: result of `supervisor.process_spec`; None runs alone. Call `supervisor.supervise` first for any other.
    fail: function that reports an error and ends this process.
    timeout: seconds to wait for the other processes.

  Raises:
    UserError: process 0 can't listen on the port, or JAX can't detect which process this is.
  """
  if spec is None:
    yield
    return
  try:
    _join(spec, timeout)
    yield
    barrier("end")
    jax.distributed.shutdown()
  except BaseException as error:
    fail(_explained(error))


def _join(spec: ProcessSpec, timeout: float) -> None:
  bind = None
  if not spec.address:
    os.environ.pop(supervisor.ADDRESS, None)  # JAX would take the value "auto" for a host name.
  elif spec.process_id == 0 and _BIND_ADDRESS not in os.environ:  # JAX obeys the variable where it is set.
    bind = _bind_address(spec.address)
  try:
    jax.distributed.initialize(
        *spec, cluster_detection_method="deactivate" if spec.address else None, coordinator_bind_address=bind,
        initialization_timeout=int(timeout), heartbeat_timeout_seconds=LOST_AFTER, shutdown_timeout_seconds=LOST_AFTER)
  except Exception as error:  # Any type can occur: JAX queries servers and parses their answers.
    if spec.address:
      raise
    raise UserError(f"--coordinator={AUTO}: {shorten(error)} JAX finds out on TPU VMs, GKE, Slurm and Open MPI; "
                     "elsewhere give HOST:PORT") from None


def _bind_address(address: str) -> str | None:
  """Return the address at which process 0 listens; None stands for all addresses of this machine.

  Raises:
    UserError: process 0 can't listen there, where JAX would crash.
  """
  host, _, port = address.rpartition(":")
  try:
    family, *_, found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    # Debian maps a machine's own name to a loopback address, which other machines can't reach.
    own_name = host != "localhost" and host[0].isalpha() and ipaddress.ip_address(found[0]).is_loopback
    socket.create_server(("", int(port)) if own_name else found[:2], family=family).close()
  except OSError as error:
    reason = str(error.strerror).partition(" (")[0]
    raise UserError(f"--coordinator {address}: process 0 can't listen there: {reason}; "
                     f"{_BIND_ADDRESS} may name another address of this machine") from None
  if own_name:
    return None
  return f"[{found[0]}]:{port}" if family == socket.AF_INET6 else f"{found[0]}:{port}"


def _explained(error: BaseException) -> BaseException:
  """Return the error to report; does not return if the error comes from the loss of another process."""
  if isinstance(error, FloatingPointError):  # All processes compute and raise it; process 0 reports it.
    with contextlib.suppress(TimeoutError):  # Whoever is gone needs no time to report.
      barrier("failed", 10.0)
    if not is_first():
      os._exit(FAILED)
  text = str(error)
  if "Gloo" in text or (isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in text):
    # A broken collective notices a lost process before JAX does. JAX will abort this process and name the lost one.
    time.sleep(LOST_AFTER + 10)
    return RunFailed(text) if "Gloo" in text else error
  return error


def exchange_host_names() -> None:
  """Gather the host names of all processes, which errors use to name them.

  Call it after `compilation_cache.use`, since it runs the first program.

  Raises:
    UserError: this is one of several hosts, such as those of a TPU pod, but it has not joined the others.
  """
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise UserError(f"this is one of {jax.process_count()} hosts: give --coordinator={AUTO}, on all of them")
  _hosts[:] = all_gather(socket.gethostname())
  supervisor.report_hosts(_hosts)


def is_first() -> bool:
  """Return whether this is process 0, which writes the files that all processes share."""
  return jax.process_index() == 0


def barrier(name: str, timeout: float = BARRIER_TIMEOUT) -> None:
  """Wait until all processes have reached the barrier `name`, at most `timeout` seconds.

  Raises:
    TimeoutError: some processes did not arrive in time; the error names them.
  """
  try:
    multihost.get_barrier_sync_fn()(key=name, timeout_ms=int(timeout * 1000))
  except jax.errors.JaxRuntimeError as error:
    if "Barrier timed out" not in str(error):
      raise
    who = supervisor.describe_processes(supervisor.lost_processes(str(error)), _hosts, jax.process_count())
    raise TimeoutError(f"{who} did not come to the barrier {name!r} in {timeout:g} s") from None


@contextlib.contextmanager
def first_alone(name: str) -> Generator[None]:
  """Run the code within on process 0 first, then on all others; raises as `barrier` does."""
  if not is_first():
    barrier(name)
  yield
  if is_first():
    barrier(name)


def broadcast_from_first(value: Any) -> Any:
  """Return process 0's value on all processes; it must be a JSON value."""
  return all_gather(value)[0]


def all_gather(value: Any) -> list[Any]:
  """Return the JSON values of all processes in order of their numbers; waits for the last process."""
  if jax.process_count() == 1:
    return [value]
  text = json.dumps(value).encode()
  # The size is rounded up to a power of two to reuse compiled programs. JSON contains no zero bytes.
  size = 1 << int(multihost_utils.process_allgather(np.int32(len(text))).max()).bit_length()
  rows = multihost_utils.process_allgather(np.frombuffer(text.ljust(size, b"\0"), np.uint8))
  return [json.loads(row.tobytes().rstrip(b"\0")) for row in rows]
