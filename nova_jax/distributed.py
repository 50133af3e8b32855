"""Several processes as one run: how they find each other, wait for each other, and end when one of them is lost.

Each process holds a connection to the coordinator (`coordinator.py`), on which a thread listens. What it hears ends the
process with one line, whatever the main thread waits for: a collective without its peer may wait for ever.
Invariant: no process outlives another one that was killed, failed or went silent by more than a minute; without
`session`, or with one process, all functions here do nothing.
"""

import atexit
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax._src import distributed, xla_bridge
from jax._src.lib import _jax

from nova_jax import cli, coordinator
from nova_jax.coordinator import name_all
from nova_jax.places import AUTO, CONNECT_TIMEOUT, Place

BARRIER_TIMEOUT = 1800.0  # Seconds: one process may have a dataset to write meanwhile.
_GRACE = 2.0  # Seconds for the coordinator to say that an error here comes from a loss elsewhere.
_ADVICE_TIMEOUT = 2.0
_SHUTDOWN_TIMEOUT = 60


@contextlib.contextmanager
def session(where: Place | None, timeout: float = CONNECT_TIMEOUT) -> Iterator[None]:
  """Be one of several processes in the code within; must come before any JAX device is touched.

  Args:
    where: see `place`; None is alone.
    timeout: seconds to wait for the others.

  Raises:
    ValueError: the coordinator refuses this process, or process 0 can't have the port.
    TimeoutError: it can't be reached, or others don't start.
  """
  global _session
  if where is None:
    yield
    return
  assert not xla_bridge.backends_are_initialized(), "JAX has devices already; nothing can be distributed any more"
  _session = _Session(where, timeout)
  try:
    yield
  except FloatingPointError:  # Computed by all, and raised by all.
    _session.leave()
    if where.process:
      os._exit(cli.FAILED)  # Process 0 says it.
    raise
  except BaseException as error:
    if _session.ending.wait(_GRACE):
      threading.Event().wait()  # The listening thread ends the process.
    code = cli.exit_code(error) or cli.FAILED
    _session.fail(code, cli.shorten(error))
    atexit.register(_exit, code)  # Before JAX waits for the others, which have nothing to wait for.
    raise
  _session.leave()


def check_joined() -> None:
  """Raise a ValueError on a host of several, such as those of a TPU pod, that hasn't joined the others."""
  if jax.process_count() > 1 and not _session:
    raise ValueError(f"this is one of {jax.process_count()} hosts: give --coordinator={AUTO}, on all of them")


def on_loss(advice: Callable[[], str]) -> None:
  """Set what a process says at its end after naming the one that is lost; it is left out if it fails or takes long."""
  if _session:
    _session.advice = advice


def is_first() -> bool:
  """Return whether this is process 0, which writes what all share."""
  return jax.process_index() == 0


def barrier(name: str, timeout: float = BARRIER_TIMEOUT) -> None:
  """Wait until all processes are here.

  Raises:
    TimeoutError: some aren't in time; the error names them.
  """
  if _session:
    _session.barrier(name, timeout)


@contextlib.contextmanager
def first_alone(name: str, timeout: float = BARRIER_TIMEOUT) -> Iterator[None]:
  """Let process 0 do what is within before the others do."""
  if not is_first():
    barrier(name, timeout)
  yield
  if is_first():
    barrier(name, timeout)


def same(name: str, value: Any, timeout: float = BARRIER_TIMEOUT) -> Any:
  """Return process 0's value (of JSON) on all processes.

  Raises:
    TimeoutError: process 0 doesn't give it in time.
  """
  return _session.same(name, value, timeout) if _session else value


def gathered(name: str, value: Any, timeout: float = BARRIER_TIMEOUT) -> list[Any]:
  """Return the values (of JSON) of all processes, in their order.

  Raises:
    TimeoutError: one of them doesn't give its own in time.
  """
  return _session.gathered(name, value, timeout) if _session else [value]


class _Session:
  """This process's connection to the coordinator, and to JAX's service there."""

  def __init__(self, where: Place, timeout: float):
    self.where, self.advice, self.left = where, lambda: "", False
    self.ending = threading.Event()  # There are bad news.
    self.calls = itertools.count()  # All processes make the same calls in the same order.
    if where.process == 0:
      _start_coordinator(where, timeout)
    self.socket = _dial(where, timeout)
    self.lines = self.socket.makefile("rb")
    self.lock = threading.Lock()
    self._send({"process": where.process, "of": where.num_processes, "host": socket.gethostname()})
    self.socket.settimeout(coordinator.LOST_AFTER)
    threading.Thread(target=self._beat, daemon=True).start()
    while not (answer := self._receive()):
      pass
    if "refused" in answer:
      text = f"--coordinator {where.address}: {answer['refused']}"
      raise TimeoutError(f"{text} ({timeout:.0f} s)") if "in time" in text else ValueError(text)
    self.hosts = answer["hosts"]
    threading.Thread(target=self._listen, daemon=True).start()
    self.client = self._join_jax(f"{where.address.rpartition(':')[0]}:{answer['port']}", int(timeout))

  def _join_jax(self, address: str, timeout: int) -> Any:
    """Do as jax.distributed.initialize does, which can't be told that the service is somewhere else."""
    state = distributed.global_state
    state.process_id, state.num_processes, state.coordinator_address = (
        self.where.process, self.where.num_processes, address)
    state.client = _jax.get_distributed_runtime_client(
        address, self.where.process, init_timeout=timeout, use_compression=True, shutdown_timeout=_SHUTDOWN_TIMEOUT,
        heartbeat_timeout=coordinator.JAX_TIMEOUT)
    state.client.connect()
    state.initialize_preemption_sync_manager()
    return state.client

  def barrier(self, name: str, timeout: float) -> None:
    key = f"nova/{next(self.calls)}/{name}"
    self.client.key_value_set(f"{key}/{self.where.process}", "")
    try:
      self.client.wait_at_barrier(key, int(timeout * 1000))
    except jax.errors.JaxRuntimeError:
      there = {int(path.rpartition("/")[2]) for path, _ in self.client.key_value_dir_get(f"{key}/")}
      missing = sorted(set(range(self.where.num_processes)) - there)
      who = self._name(missing) if missing else "one of the processes"  # It came just now.
      raise TimeoutError(f"{who} did not come to the barrier {name!r} in {timeout:g} s") from None

  def same(self, name: str, value: Any, timeout: float) -> Any:
    key = f"nova/{next(self.calls)}/{name}"
    if self.where.process == 0:
      self.client.key_value_set(key, json.dumps(value))
    try:
      return json.loads(self.client.blocking_key_value_get(key, int(timeout * 1000)))
    except jax.errors.JaxRuntimeError:
      raise TimeoutError(f"{self._name([0])} did not give {name!r} in {timeout:g} s") from None

  def gathered(self, name: str, value: Any, timeout: float) -> list[Any]:
    key, values = f"nova/{next(self.calls)}/{name}", []
    self.client.key_value_set(f"{key}/{self.where.process}", json.dumps(value))
    for process in range(self.where.num_processes):
      try:
        values.append(json.loads(self.client.blocking_key_value_get(f"{key}/{process}", int(timeout * 1000))))
      except jax.errors.JaxRuntimeError:
        raise TimeoutError(f"{self._name([process])} did not give {name!r} in {timeout:g} s") from None
    return values

  def leave(self) -> None:
    """End together with the others."""
    self.barrier("end", BARRIER_TIMEOUT)
    self.left = True
    self._send({"end": 0})
    jax.distributed.shutdown()

  def fail(self, code: int, text: str) -> None:
    """Make the others end as this process does."""
    self.left = True
    self._send({"end": code, "text": text})

  def _send(self, message: dict[str, Any]) -> None:
    with self.lock, contextlib.suppress(OSError):  # The listening thread finds out why.
      self.socket.sendall(coordinator.encode(message))

  def _receive(self) -> dict[str, Any]:
    try:
      return json.loads(self.lines.readline())
    except (OSError, ValueError):  # Silence, or the end, perhaps within a line.
      return {"lost": None}

  def _beat(self) -> None:
    while not self.left:
      self._send({})
      time.sleep(coordinator.BEAT)

  def _listen(self) -> None:
    """Wait for bad news, and end the process with them."""
    while not (news := self._receive()):
      pass
    if self.left:
      return
    self.ending.set()
    if "lost" in news:
      who = f"the coordinator {self.where.address} of " if news["lost"] is None else ""
      # At once: advice reads storage, which may have gone with the process.
      _write_error(f"{who}{self._name([news['lost'] or 0])} is lost", end="")
      advice = self._advise()
      os.write(2, f"{'; ' * bool(advice)}{advice}\n".encode())
      os._exit(cli.FAILED)
    bad_input = news["code"] == cli.BAD_INPUT
    _exit(news["code"], news["text"] if bad_input else f"{self._name([news['failed']])} failed: {news['text']}")

  def _advise(self) -> str:
    found = []

    def ask():
      with contextlib.suppress(Exception):
        found.append(self.advice())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ADVICE_TIMEOUT)
    return found[0] if found else ""

  def _name(self, processes: list[int]) -> str:
    hosts = ", ".join(dict.fromkeys(self.hosts[i] for i in processes))
    return f"{name_all(processes, self.where.num_processes)} (host{'s' * (',' in hosts)} {hosts})"


_session: _Session | None = None


def _start_coordinator(where: Place, timeout: float) -> None:
  command = [
      sys.executable, "-P", str(Path(coordinator.__file__)), where.address,
      str(where.num_processes), str(timeout)]
  # In a session of its own: it outlives this process for as long as the others need it.
  process = subprocess.Popen(
      command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
      start_new_session=True, encoding="utf-8")
  answer = process.stdout.readline().strip()
  if answer != coordinator.READY:
    raise ValueError(f"--coordinator {where.address}: process 0 can't listen there: {answer or 'it ended at once'}")


def _dial(where: Place, timeout: float) -> socket.socket:
  host, _, port = where.address.rpartition(":")
  deadline = time.monotonic() + timeout
  while True:
    try:
      return socket.create_connection((host.strip("[]"), int(port)), timeout=5.0)
    except OSError as error:
      if time.monotonic() > deadline:
        raise TimeoutError(
            f"--coordinator {where.address}: not reachable in {timeout:g} s ({error.strerror or error}); is process 0 "
            "running there?") from None
      time.sleep(0.5)


def _exit(code: int, text: str = "") -> None:
  """End the process at once, from any thread."""
  if text:
    _write_error(text)
  else:
    sys.stdout.flush()
    sys.stderr.flush()
  os._exit(code)


def _write_error(text: str, end: str = "\n") -> None:
  clear = "\r\x1b[K" if sys.stderr.isatty() else ""
  os.write(2, f"{clear}error: {text}{end}".encode())
