"""The start and the end of one of several processes: which one it is, and what is said when JAX ends it.

JAX aborts a process with pages of C++ when another one is lost. So a process of several is the child of a small one,
which waits for it and makes one line of these pages. Invariant: this file imports no JAX.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import IO, NamedTuple

from nova_jax.utils.errors import FAILED, RunFailed, UserError

AUTO = "auto"
ADDRESS, NUM_PROCESSES, PROCESS_ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
CONNECT_TIMEOUT = 300.0  # Seconds: hosts of a pod start minutes apart.
_PARENT = "NOVA_JAX_PARENT"  # Number of the file that leads to the parent, in the child's environment.
# What tells the number of a process and how many there are, to each process of a step of Slurm and of Open MPI.
_SCHEDULERS = (("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
# The first line of what JAX writes before it aborts; a test notices if a new version says it otherwise.
_ABORTS = re.compile(
    "Use error polling to propagate|Polled an error from|Terminating process because the JAX|"
    "Failed to retrieve preemption notice")
_connection: socket.socket | None = None  # To the parent, in the child.


class Place(NamedTuple):
  """Where a process stands among those of a run; JAX finds out what is None."""

  address: str | None  # "HOST:PORT" of process 0.
  num_processes: int | None
  process: int | None


def place(address: str | None, num_processes: int | None, process: int | None) -> Place | None:
  """Read where this process stands from arguments, or else from the environment; None if it is alone.

  Args:
    address: "HOST:PORT" of process 0, or "auto" where JAX can find out (TPU VMs, GKE, Slurm, Open MPI).
    num_processes: of the run.
    process: this one's number.

  Raises:
    ValueError: they don't make a place.
  """
  address = address or os.environ.get(ADDRESS)
  process, num_processes = _numbers(num_processes, process)
  if not address:
    if num_processes not in (None, 1):
      raise UserError(f"--coordinator: {num_processes} processes need the HOST:PORT of process 0, or {AUTO!r}")
    return None
  if address == AUTO:
    return Place(None, num_processes, process)
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise UserError(f"--coordinator: expected HOST:PORT or {AUTO!r}, got {address!r}")
  if num_processes is None:
    raise UserError("--coordinator: give --num_processes and --process_id, too")
  return Place(address, num_processes, process) if num_processes > 1 else None


def share(address: str | None, num_processes: int | None, process: int | None) -> tuple[int, int]:
  """Return which of how many processes this is, of work that they share without talking; arguments as of `place`.

  Nothing is joined: each process may start, end and start again when it will. (0, 1) is one that is alone.

  Raises:
    ValueError: they don't make a share.
  """
  process, num_processes = _numbers(num_processes, process)
  if num_processes is not None:
    return process, num_processes
  address = address or os.environ.get(ADDRESS)
  if not address:
    return 0, 1
  if address != AUTO:
    raise UserError("--coordinator: give --num_processes and --process_id, too")
  for names in _SCHEDULERS:
    if all(name in os.environ for name in names):
      return int(os.environ[names[0]]), int(os.environ[names[1]])
  import jax  # On a TPU VM, the TPU itself knows.

  if jax.default_backend() != "tpu":
    raise UserError(f"--coordinator={AUTO}: this is no TPU VM, Slurm or Open MPI job; give --num_processes and "
                     "--process_id instead")
  return jax.process_index(), jax.process_count()


def _numbers(num_processes: int | None, process: int | None) -> tuple[int | None, int | None]:
  num_processes = _number("num_processes", num_processes, NUM_PROCESSES)
  process = _number("process_id", process, PROCESS_ID)
  if (num_processes is None) != (process is None):
    raise UserError("--num_processes and --process_id: give both or none")
  if num_processes is not None and (num_processes < 1 or not 0 <= process < num_processes):
    raise UserError(f"--process_id: expected 0 to {num_processes - 1} of {num_processes} processes, got {process}")
  return process, num_processes


def _number(flag: str, value: int | None, variable: str) -> int | None:
  text = os.environ.get(variable)
  if value is not None or not text:
    return value
  if not text.isdigit():
    raise UserError(f"--{flag}: {variable} in the environment should be a number, got {text!r}")
  return int(text)


def supervise(where: Place | None, timeout: float = CONNECT_TIMEOUT) -> None:
  """Run this very command as a child, and end as it ends; returns only in the child, or if this process is alone.

  Args:
    where: see `place`.
    timeout: seconds within which all processes must have joined.

  Raises:
    RunFailed: another process is lost; the error names it and its host.
    TimeoutError: not all processes have joined in time.
    SystemExit: any other end of the child, with its exit code.
  """
  if where is None:
    return
  if _PARENT in os.environ:
    _follow()
    return
  ours, theirs = socket.socketpair()
  env = os.environ | {_PARENT: str(theirs.fileno())}
  # In a group of its own: Ctrl-C reaches it once, from here.
  child = subprocess.Popen(
      [sys.executable, *sys.orig_argv[1:]], env=env, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE,
      process_group=0, encoding="utf-8", errors="backslashreplace")
  theirs.close()
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, lambda number, _: child.send_signal(number))
  dump: list[str] = []
  reader = threading.Thread(target=_pass_on, args=(child.stderr, dump), daemon=True)
  reader.start()
  code = child.wait()
  reader.join(5.0)  # Its workers may hold standard error for a while.
  text = "".join(dump)
  if dump and code == -signal.SIGABRT:
    if "RegisterTask" in text:
      raise TimeoutError(
          f"--coordinator {where.address or AUTO}: not all processes joined there in {timeout:g} s; start each of them "
          "once, all with the same number of processes, where they can reach this address")
    raise RunFailed(f"{name(lost(text), _reported(ours), where.num_processes)} is lost")
  sys.stderr.write(text)
  if code < 0:
    raise RunFailed(f"this process was ended by {signal.Signals(-code).name}")
  raise SystemExit(code)


def _pass_on(stderr: IO[str], dump: list[str]) -> None:
  """Show the lines of a child, and keep those that JAX writes before it aborts it."""
  for line in stderr:
    if dump or _ABORTS.search(line):
      dump.append(line)
    else:
      sys.stderr.write(line)
      sys.stderr.flush()


def lost(dump: str) -> list[int]:
  """Return the processes that JAX says to have lost; none if it doesn't say."""
  if found := re.search(r"(?:stopped sending heartbeats\)|timed out task names):\s*([\d,\s]+)", dump):
    return sorted(map(int, re.findall(r"\d+", found[1])))
  if "leader task" in dump or "DEADLINE_EXCEEDED" in dump:
    return [0]  # It holds JAX's service, which the others can't reach any more.
  return []


def name(processes: list[int], hosts: list[str], num_processes: int | None) -> str:
  """Return "process 1 (host a) of 3" or "process 1, 2 (host a, b) of 3"."""
  if not processes:
    return "another process"
  names = ", ".join(dict.fromkeys(hosts[i] for i in processes if i < len(hosts)))
  count = num_processes or len(hosts)
  return f"process {', '.join(map(str, processes))}" + f" (host {names})" * bool(names) + f" of {count}" * bool(count)


def report(hosts: list[str]) -> None:
  """Tell the parent, if there is one, the hosts of all processes."""
  if _connection:
    _connection.sendall(json.dumps(hosts).encode())


def _follow() -> None:
  """End this process when its parent ends."""
  global _connection
  _connection = socket.socket(fileno=int(os.environ.pop(_PARENT)))

  def wait() -> None:
    with contextlib.suppress(OSError):
      _connection.recv(1)
    os._exit(FAILED)

  threading.Thread(target=wait, daemon=True).start()


def _reported(connection: socket.socket) -> list[str]:
  """Return the hosts that the child has reported; none if it ended before."""
  try:
    connection.setblocking(False)
    return json.loads(connection.recv(2**20))
  except (BlockingIOError, ValueError):
    return []
