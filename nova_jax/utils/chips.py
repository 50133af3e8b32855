"""A table of TPU chips: their peak rates, memory and slices.

Peaks, memory bandwidth, interconnect (ICI) and pod sizes are from the Cloud TPU pages of each version,
cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x). The ICI bandwidth is that of one link in one direction: the page's
Gbps per chip divided by its links (v5p 4,800 over six, v5e 1,600 and v6e 3,200 over four). The page of the TPU7x counts
both directions, 1,200 GB/s over six links. DCN is the network of the hosts, which their chips share: v5e 6.4 and v6e
25.6 Tbps per pod of 256 chips, v5p 50 and tpu7x 100 Gbps per chip. The page for v4 gives neither. Its links are assumed
to equal v5e's, as in the scaling book (jax-ml.github.io/scaling-book), and its DCN v5p's. A TPU7x is two chiplets, each
of which is a device in JAX; they share its links and its network, so the table has a half of each of its rates. What
the two send each other is counted as if it took the links, too. `limit` is the memory that the compiler lets a program
use, according to its out-of-memory error.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

GIB = 2**30
# Number of bf16 products per float32 product, by JAX's matmul precision.
FLOAT32_PASSES: Mapping[str | None, int] = MappingProxyType({
    None: 1, "default": 1, "fastest": 1, "bfloat16": 1, "high": 3, "bfloat16_3x": 3, "tensorfloat32": 3, "highest": 6,
    "float32": 6})


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of chip; rates and memory are those of one device of JAX."""

  name: str
  device_kind: str  # Name in JAX.
  flops: float  # Dense bf16 FLOPs.
  limit: float  # Bytes of memory that the compiler lets a program use.
  hbm_bandwidth: float  # Bytes to and from memory.
  link: float  # Bytes over one ICI link in one direction; a torus has two links per dimension.
  dcn: float  # Bytes between slices.
  dimensions: int  # Number of dimensions of the torus.
  largest: int  # Number of chips in the largest slice.
  libtpu: str  # Name in the compiler.
  megacore: bool  # Whether two cores act as one device.
  matrix_unit: int  # Rows and columns of the unit that multiplies matrices.
  devices: int = 1  # Number of devices of JAX in a chip.


CHIPS: Mapping[str, Chip] = MappingProxyType({chip.name: chip for chip in (
    Chip("v4", "TPU v4", 275e12, 30.75 * GIB, 1200e9, 50e9, 6.25e9, 3, 4096, "v4", True, 128),
    Chip("v5e", "TPU v5 lite", 197e12, 15.75 * GIB, 819e9, 50e9, 3.125e9, 2, 256, "v5e", False, 128),
    Chip("v5p", "TPU v5", 459e12, 95.73 * GIB, 2765e9, 100e9, 6.25e9, 3, 6144, "v5", True, 128),
    Chip("v6e", "TPU v6 lite", 918e12, 31.24 * GIB, 1640e9, 100e9, 12.5e9, 2, 256, "v6e", False, 256),
    Chip("tpu7x", "TPU7x", 1153.5e12, 94.75 * GIB, 3690e9, 50e9, 6.25e9, 3, 9216, "tpu7x", False, 256, devices=2),
)})


def find_chip(device_kind: str) -> Chip | None:
  """Return the chip with the name `device_kind` in JAX; None if it is not in the table."""
  kind = {"TPU v5p": "TPU v5", "TPU v5e": "TPU v5 lite", "TPU v6e": "TPU v6 lite"}.get(device_kind, device_kind)
  return next((chip for chip in CHIPS.values() if chip.device_kind == kind), None)


def peak_flops(chip: Chip, dtype: str, precision: str | None = None) -> float:
  """Return the peak FLOP/s of matrix products on one chip.

  Args:
    chip: kind of chip.
    dtype: dtype of the operands.
    precision: JAX's matmul precision. By default float32 operands are rounded to bf16 and multiplied once; "high" takes
      three such products and "highest" six.
  """
  return chip.flops / (FLOAT32_PASSES[precision] if dtype == "float32" else 1)
