"""One host of a TPU pod alone: commands that each host runs for itself see its own chips, and it knows its number.

Without this, libtpu waits in the first use of JAX for all hosts of the slice, and a host that ends takes the others'
runtime down. Invariant: this file does not import JAX, which reads the environment when it first looks for devices.
"""

import functools
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from nova_jax.utils.errors import UserError

_GOOGLE = "0x1ae0"  # PCI vendor.
_CHIPS = frozenset(("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"))  # PCI devices, v2 to v7x.
_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # How the chips of a host lie.
_PORT = 8476  # Of libtpu's own service, which one process has nothing to say to.
_SECONDS = 5.0  # Until the metadata server has answered.


def isolate_host() -> None:
  """Make libtpu see the chips of this host and no other host; call it before JAX looks for devices.

  Nothing changes on a machine without TPUs, or if the environment says already which chips a process has.
  """
  if {"TPU_PROCESS_BOUNDS", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"} & set(os.environ):
    return
  os.environ |= own_chips(count_chips())


def own_chips(count: int) -> Mapping[str, str]:
  """Return the environment of a process that has a host's chips for itself; none for a number that no host has."""
  if count not in _BOUNDS:
    return {}
  return {
      "TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": _BOUNDS[count],
      "TPU_VISIBLE_CHIPS": ",".join(map(str, range(count))), "TPU_PROCESS_PORT": str(_PORT),
      "TPU_PROCESS_ADDRESSES": f"localhost:{_PORT}", "CLOUD_TPU_TASK_ID": "0"}


def count_chips(buses: str = "/sys/bus/pci/devices") -> int:
  """Return the number of TPU chips of this machine."""
  count = 0
  for vendor in Path(buses).glob("*/vendor"):
    try:
      own = vendor.read_text(encoding="utf-8").strip() == _GOOGLE
      count += own and (vendor.parent / "device").read_text(encoding="utf-8").strip() in _CHIPS
    except OSError:  # A device that went away.
      continue
  return count


def worker() -> tuple[int, int] | None:
  """Return the number of this host among those of its TPU slices, and how many they are; None on another machine.

  GKE says so in the environment, TPU VMs by Google's metadata server.

  Raises:
    UserError: the machine is a TPU host, and what it says can't be understood.
  """
  try:
    if "TPU_WORKER_ID" in os.environ and "TPU_WORKER_HOSTNAMES" in os.environ:
      number, hosts = int(os.environ["TPU_WORKER_ID"]), len(os.environ["TPU_WORKER_HOSTNAMES"].split(","))
    elif count_chips() and (text := _metadata("agent-worker-number")) is not None:
      number, hosts = int(text), len((_metadata("worker-network-endpoints") or "").split(","))
    else:
      return None
    slices, slice_id = (int(_setting(name) or default) for name, default in (
        ("MEGASCALE_NUM_SLICES", 1), ("MEGASCALE_SLICE_ID", 0)))
  except ValueError as error:
    raise UserError(f"--coordinator=auto: this TPU host does not say which one it is: {error}") from None
  return number + slice_id * hosts, hosts * slices


def _setting(name: str) -> str:
  """Return a variable of the environment, or what a TPU VM has in its place."""
  if name in os.environ or not count_chips():
    return os.environ.get(name, "")
  for line in (_metadata("tpu-env") or "").splitlines():
    key, colon, value = line.partition(":")
    if colon and key.strip() == name:
      return value.strip().strip("'")
  return ""


@functools.cache
def _metadata(key: str) -> str | None:
  """Return an attribute of this machine; None if it has none, or there is no metadata server."""
  server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
      f"http://{server}/computeMetadata/v1/instance/attributes/{key}", headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
      return answer.read().decode()
  except (urllib.error.URLError, OSError):
    return None
