"""Where a process stands among those of a run: by flags, by the environment, or as JAX finds out on TPU VMs.

Invariant: nothing here touches a JAX device.
"""

import os
from typing import NamedTuple

from jax._src import clusters

from nova_jax import cli

AUTO = "auto"
ADDRESS, NUM_PROCESSES, PROCESS_ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
CONNECT_TIMEOUT = 300.0  # Seconds: hosts of a pod start minutes apart.


class Place(NamedTuple):
  """Where a process stands among those of a run."""

  address: str  # "HOST:PORT" of the coordinator.
  num_processes: int
  process: int


def place(address: str | None, num_processes: int | None, process: int | None) -> Place | None:
  """Read where this process stands from arguments, or else from the environment; None if it is alone.

  Args:
    address: "HOST:PORT" of process 0, or "auto" where JAX can find out (TPU VMs, Slurm, Open MPI).
    num_processes: of the run.
    process: this one's number.

  Raises:
    ValueError: they don't make a place.
  """
  address = address or os.environ.get(ADDRESS)
  num_processes = _number("num_processes", num_processes, NUM_PROCESSES)
  process = _number("process_id", process, PROCESS_ID)
  if not address:
    if num_processes not in (None, 1) or process:
      who = f"process {process} needs" if num_processes in (None, 1) else f"{num_processes} processes need"
      raise ValueError(f"--coordinator: {who} the HOST:PORT of process 0, or {AUTO!r}")
    return None
  if address == AUTO:
    try:
      address, num_processes, process, _ = clusters.ClusterEnv.auto_detect_unset_distributed_params(
          None, num_processes, process, None, None, int(CONNECT_TIMEOUT))
    except Exception as error:  # Of whatever kind: it asks servers and parses what they say.
      raise ValueError(f"--coordinator={AUTO}: {cli.shorten(error)}; give HOST:PORT instead") from None
    if address is None:
      raise ValueError(f"--coordinator={AUTO}: this is no TPU VM, Slurm or Open MPI job; give HOST:PORT instead")
  if num_processes is None or process is None:
    raise ValueError("--coordinator: give --num_processes and --process_id, too")
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise ValueError(f"--coordinator: expected HOST:PORT or {AUTO!r}, got {address!r}")
  if num_processes < 1 or not 0 <= process < num_processes:
    raise ValueError(f"--process_id: expected 0 to {num_processes - 1} of {num_processes} processes, got {process}")
  return Place(address, num_processes, process) if num_processes > 1 else None


def share(address: str | None, num_processes: int | None, process: int | None) -> tuple[int, int]:
  """Read which of how many processes this is, of work that they share without talking; arguments as of `place`.

  Returns:
    The process, from 0, and their number; (0, 1) for one that is alone.

  Raises:
    ValueError: they don't make a share.
  """
  if address or os.environ.get(ADDRESS):
    where = place(address, num_processes, process)
    return (where.process, where.num_processes) if where else (0, 1)
  num_processes = _number("num_processes", num_processes, NUM_PROCESSES)
  process = _number("process_id", process, PROCESS_ID)
  if num_processes is None and process is None:
    return 0, 1
  if num_processes is None or process is None:
    raise ValueError("--num_processes and --process_id: give both or none")
  if num_processes < 1 or not 0 <= process < num_processes:
    raise ValueError(f"--process_id: expected 0 to {num_processes - 1} of {num_processes} processes, got {process}")
  return process, num_processes


def _number(flag: str, value: int | None, variable: str) -> int | None:
  text = os.environ.get(variable)
  if value is not None or not text:
    return value
  if not text.isdigit():
    raise ValueError(f"--{flag}: {variable} in the environment should be a number, got {text!r}")
  return int(text)
