"""Slices of TPU pods by name, as the compiler describes them: `v5e:16x16`, `v4:4x4x4`, `v5e:16x16*2` for two slices.

Invariant: only this module loads libtpu, and only once. It does not look for a TPU.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from nova_jax.config import MeshConfig
from nova_jax.utils.chips import CHIPS, Chip
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

# Set before the library is loaded: don't query the cloud about this machine, don't warn, share the lock file.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Chips of one kind, in one or several equal slices."""

  chip: Chip
  shape: tuple[int, ...]  # Shape of a slice.
  num_slices: int = 1

  @property
  def name(self) -> str:
    slices = f"*{self.num_slices}" if self.num_slices > 1 else ""
    return f"{self.chip.name}:{'x'.join(map(str, self.shape))}{slices}"

  @property
  def num_chips(self) -> int:
    return math.prod(self.shape) * self.num_slices

  @property
  def num_devices(self) -> int:
    return self.num_chips * self.chip.devices

  def devices(self) -> list[jax.Device]:
    """Return the devices of the slices, for a mesh to compile for.

    Raises:
      UserError: libtpu is missing, TPU_LIBRARY_PATH is wrong, or there is no such slice.
    """
    library = os.environ.get("TPU_LIBRARY_PATH")
    if library is not None and not os.path.isfile(library):
      raise UserError(f"TPU_LIBRARY_PATH in the environment: there is no file {library!r}; expected libtpu.so")
    if library is None and importlib.util.find_spec("libtpu") is None:
      raise UserError(
          "libtpu, the compiler for TPUs, is not installed: make .venv/libtpu, or install nova_jax with its extra "
          "compile")
    options: dict[str, Any] = {"chip_config_name": "megacore"} if self.chip.megacore else {}
    if self.num_slices > 1:
      options["num_slices"] = self.num_slices
    if min(self.shape[:2]) < 2:  # A part of a host, whose chips are 2 x 2 by default.
      options["chips_per_host_bounds"] = [min(2, side) for side in self.shape[:2]] + [1]
    name = f"{self.chip.libtpu}:{'x'.join(map(str, self.shape))}"
    try:
      with muted():
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:  # JAX has no type for errors of the library.
      reason = str(error).splitlines()[0].partition(": ")[2] or str(error).splitlines()[0]
      raise UserError(f"--topology: the TPU compiler refuses {self.name}: {reason}") from None


def parse_topology(text: str) -> Topology:
  """Parse CHIP:AxB or CHIP:AxBxC, with *N for N slices.

  Raises:
    UserError: the form is wrong, the chip unknown, or the slice impossible.
  """
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?", text)
  if not match:
    raise UserError(f"--topology: expected CHIP:AxB, such as v5e:16x16, v4:4x4x4 or v5e:16x16*2 for two, got {text!r}")
  if match[1] not in CHIPS:
    raise UserError(f"--topology: {match[1]!r} is not a known chip{did_you_mean(match[1], CHIPS)}")
  chip, shape = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
  num_slices = int(match[3] or 1)
  if len(shape) != chip.dimensions:
    raise UserError(f"--topology: a slice of {chip.name} has {chip.dimensions} dimensions, got {text!r}")
  if not 1 <= math.prod(shape) <= chip.largest or num_slices < 1:
    raise UserError(
        f"--topology: a slice of {chip.name} has 1 to {chip.largest} chips, got {math.prod(shape)} in {text!r}; "
        f"more are several slices, {chip.name}:AxB*N")
  return Topology(chip, shape, num_slices)


def parse_mesh(text: str) -> MeshConfig:
  """Parse data=1,fsdp=64,tensor=4; other axes have one device, and -1 takes the remaining devices.

  Raises:
    UserError: the form is wrong, or an axis is unknown or given twice.
  """
  axes = [field.name for field in dataclasses.fields(MeshConfig)]
  given = {}
  for part in text.split(","):
    name, _, size = part.partition("=")
    if not re.fullmatch(r"-1|[1-9]\d{0,5}", size):
      raise UserError(f"--mesh: expected AXIS=DEVICES,…, such as data=4,fsdp=64, got {text!r}")
    if name not in axes:
      raise UserError(f"--mesh: {name!r} is not an axis{did_you_mean(name, axes)}")
    if name in given:
      raise UserError(f"--mesh: {name} stands twice in {text!r}")
    given[name] = int(size)
  return MeshConfig(**dict.fromkeys(axes, 1) | given)


def prepare_environment() -> None:
  """Set the environment of libtpu, and JAX to CPU; call it before JAX starts."""
  for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  beside = Path(sys.prefix) / "libtpu/libtpu/libtpu.so"  # Target of `make .venv/libtpu`.
  if beside.is_file():
    os.environ.setdefault("TPU_LIBRARY_PATH", str(beside))
  os.environ["JAX_PLATFORMS"] = "cpu"
  jax.config.update("jax_platforms", "cpu")


@contextlib.contextmanager
def muted() -> Generator[None]:
  """Hide the output of C++ code to stderr."""
  sys.stderr.flush()
  saved = os.dup(2)
  with tempfile.TemporaryFile() as sink:
    os.dup2(sink.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(saved, 2)
      os.close(saved)
