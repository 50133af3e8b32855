"""Identifies this process among those of a run, and supervises it.

When one process of a run is lost, JAX aborts the others with pages of C++ messages. Each process of a multi-process run
is therefore the child of a small supervisor, which waits for it and reduces these messages to one line.
Invariant: this file does not import JAX.
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

from nova_jax.parallel.single_host import worker
from nova_jax.utils.errors import FAILED, RunFailed, UserError

AUTO = "auto"
ADDRESS, NUM_PROCESSES, PROCESS_ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
CONNECT_TIMEOUT = 300.0  # Seconds: hosts of a pod start minutes apart.
_PARENT = "NOVA_JAX_PARENT"  # File descriptor of the connection to the parent, in the child's environment.
# Environment variables in which Slurm and Open MPI give each process its number and the number of processes.
_SCHEDULER_VARIABLES = (("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
# The first line that JAX writes before it aborts. A test notices when a new version words it differently.
_ABORTS = re.compile(
    "Use error polling to propagate|Polled an error from|Terminating process because the JAX|"
    "Failed to retrieve preemption notice")
_connection: socket.socket | None = None  # To the parent, in the child.


class ProcessSpec(NamedTuple):
  """Identifies one process of a run; JAX detects the fields that are None."""

  address: str | None  # "HOST:PORT" of process 0.
  num_processes: int | None
  process_id: int | None


def process_spec(address: str | None, num_processes: int | None, process_id: int | None) -> ProcessSpec | None:
  """Identify this process by the arguments, or by the environment where they are None; None if it runs alone.

  Args:
    address: "HOST:PORT" of process 0, or "auto" where JAX can detect it (TPU VMs, GKE, Slurm, Open MPI).
    num_processes: number of processes of the run.
    process_id: number of this process, from 0.

  Raises:
    UserError: the arguments are incomplete or contradict each other.
  """
  address = address or os.environ.get(ADDRESS)
  process_id, num_processes = _numbers(num_processes, process_id)
  if not address:
    if num_processes not in (None, 1):
      raise UserError(f"--coordinator: {num_processes} processes need the HOST:PORT of process 0, or {AUTO!r}")
    return None
  if address == AUTO:
    return ProcessSpec(None, num_processes, process_id)
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise UserError(f"--coordinator: expected HOST:PORT or {AUTO!r}, got {address!r}")
  if num_processes is None:
    raise UserError("--coordinator: give --num_processes and --process_id, too")
  return ProcessSpec(address, num_processes, process_id) if num_processes > 1 else None


def shard_for_process(address: str | None, num_processes: int | None, process_id: int | None) -> tuple[int, int]:
  """Return (shard, number of shards) for work that processes divide without communicating.

  The processes do not join each other: each may start, end and restart at any time. A single process gets (0, 1).
  The arguments are those of `process_spec`.

  Raises:
    UserError: the arguments are incomplete, or the shard can't be detected.
  """
  process_id, num_processes = _numbers(num_processes, process_id)
  if num_processes is not None and process_id is not None:
    return process_id, num_processes
  address = address or os.environ.get(ADDRESS)
  if not address:
    return 0, 1
  if address != AUTO:
    raise UserError("--coordinator: give --num_processes and --process_id, too")
  for names in _SCHEDULER_VARIABLES:
    if all(name in os.environ for name in names):
      return int(os.environ[names[0]]), int(os.environ[names[1]])
  found = worker()
  if found is None:
    raise UserError(f"--coordinator={AUTO}: this is no TPU VM, pod of GKE, Slurm or Open MPI job; give "
                     "--num_processes and --process_id instead")
  return found


def _numbers(num_processes: int | None, process_id: int | None) -> tuple[int | None, int | None]:
  num_processes = _number("num_processes", num_processes, NUM_PROCESSES)
  process_id = _number("process_id", process_id, PROCESS_ID)
  if num_processes is None and process_id is None:
    return None, None
  if num_processes is None or process_id is None:
    raise UserError("--num_processes and --process_id: give both or none")
  if num_processes < 1 or not 0 <= process_id < num_processes:
    raise UserError(f"--process_id: expected 0 to {num_processes - 1} of {num_processes} processes, got {process_id}")
  return process_id, num_processes


def _number(flag: str, value: int | None, variable: str) -> int | None:
  text = os.environ.get(variable)
  if value is not None or not text:
    return value
  if not text.isdigit():
    raise UserError(f"--{flag}: {variable} in the environment should be a number, got {text!r}")
  return int(text)


def supervise(spec: ProcessSpec | None, timeout: float = CONNECT_TIMEOUT) -> None:
  """Run this command again as a child process, and exit as the child does.

  The function returns only in the child, or if this process runs alone.

  Args:
    spec: result of `process_spec`.
    timeout: seconds within which all processes must have joined.

  Raises:
    RunFailed: another process was lost; the error names it and its host.
    TimeoutError: not all processes joined in time.
    SystemExit: the child ended in any other way; carries its exit code.
  """
  if spec is None:
    return
  if _PARENT in os.environ:
    _follow()
    return
  ours, theirs = socket.socketpair()
  env = os.environ | {_PARENT: str(theirs.fileno())}
  # The child gets its own process group, so that Ctrl-C reaches it only once, through this process.
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
  reader.join(5.0)  # The child's workers may keep standard error open for a while.
  text = "".join(dump)
  if dump and code == -signal.SIGABRT:
    if "RegisterTask" in text:
      raise TimeoutError(
          f"--coordinator {spec.address or AUTO}: not all processes joined there in {timeout:g} s; start each of them "
          "once, all with the same number of processes, where they can reach this address")
    raise RunFailed(f"{describe_processes(lost_processes(text), _reported(ours), spec.num_processes)} is lost")
  sys.stderr.write(text)
  if code < 0:
    raise RunFailed(f"this process was ended by {signal.Signals(-code).name}")
  raise SystemExit(code)


def _pass_on(stderr: IO[str], dump: list[str]) -> None:
  """Forward the child's lines to standard error, and collect those that JAX writes before it aborts the child."""
  for line in stderr:
    if dump or _ABORTS.search(line):
      dump.append(line)
    else:
      sys.stderr.write(line)
      sys.stderr.flush()


def lost_processes(dump: str) -> list[int]:
  """Return the numbers of the processes that JAX reports as lost; empty if it names none."""
  if found := re.search(r"(?:stopped sending heartbeats\)|timed out task names):\s*([\d,\s]+)", dump):
    return sorted(map(int, re.findall(r"\d+", found[1])))
  if "leader task" in dump or "DEADLINE_EXCEEDED" in dump:
    return [0]  # Process 0 hosts JAX's service, which the others can no longer reach.
  return []


def describe_processes(processes: list[int], hosts: list[str], num_processes: int | None) -> str:
  """Return "process 1 (host a) of 3" or "process 1, 2 (host a, b) of 3"."""
  if not processes:
    return "another process"
  names = ", ".join(dict.fromkeys(hosts[i] for i in processes if i < len(hosts)))
  count = num_processes or len(hosts)
  return f"process {', '.join(map(str, processes))}" + f" (host {names})" * bool(names) + f" of {count}" * bool(count)


def report_hosts(hosts: list[str]) -> None:
  """Send the host names of all processes to the parent, if there is one."""
  if _connection:
    _connection.sendall(json.dumps(hosts).encode())


def _follow() -> None:
  """End this process when its parent ends."""
  global _connection
  _connection = socket.socket(fileno=int(os.environ.pop(_PARENT)))

  def wait() -> None:
    with contextlib.suppress(OSError):  # A connection that breaks says the same as one that ends.
      _connection.recv(1)
    os._exit(FAILED)

  threading.Thread(target=wait, daemon=True).start()


def _reported(connection: socket.socket) -> list[str]:
  """Return the host names that the child has reported; empty if it ended before that."""
  try:
    connection.setblocking(False)
    return json.loads(connection.recv(2**20))
  except (BlockingIOError, ValueError):
    return []
