"""What a TPU chip can do, in one table, and which slices of it there are.

Peaks, memory bandwidth, interconnect (ICI) and pod sizes: the Cloud TPU pages of each version,
cloud.google.com/tpu/docs (v4, v5e, v5p, v6e). ICI is what one link carries one way: the page's Gbps a chip over its
links (v5p 4,800 over six, v5e 1,600 and v6e 3,200 over four). DCN is the network of the hosts, shared by their chips:
v5e 6.4 and v6e 25.6 Tbps a pod of 256 chips, v5p 50 Gbps a chip. v4's page gives neither: its links are taken to be
v5e's, as in the table of the scaling book (jax-ml.github.io/scaling-book), its DCN to be v5p's. `limit` is what the
compiler lets a program use: the number in its own out-of-memory error.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

GIB = 2**30
# How many bf16 products a float32 product is made of, by JAX's matmul precision.
FLOAT32_PASSES: Mapping[str | None, int] = MappingProxyType({
    None: 1, "default": 1, "fastest": 1, "bfloat16": 1, "high": 3, "bfloat16_3x": 3, "tensorfloat32": 3, "highest": 6,
    "float32": 6})


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of chip; rates are a second and a chip."""

  name: str
  device_kind: str  # What JAX calls it.
  flops: float  # Dense bf16.
  limit: float  # Bytes that the compiler lets a program use.
  hbm_bandwidth: float  # Bytes.
  link: float  # Bytes over one ICI link, one way; a torus has two links a dimension.
  dcn: float  # Bytes between slices.
  dimensions: int  # Of the torus.
  largest: int  # Chips of the largest slice.
  libtpu: str  # The compiler's name for it.
  megacore: bool  # Two cores that act as one device.


CHIPS: Mapping[str, Chip] = MappingProxyType({chip.name: chip for chip in (
    Chip("v4", "TPU v4", 275e12, 30.75 * GIB, 1200e9, 50e9, 6.25e9, 3, 4096, "v4", True),
    Chip("v5e", "TPU v5 lite", 197e12, 15.75 * GIB, 819e9, 50e9, 3.125e9, 2, 256, "v5e", False),
    Chip("v5p", "TPU v5", 459e12, 95.73 * GIB, 2765e9, 100e9, 6.25e9, 3, 6144, "v5", True),
    Chip("v6e", "TPU v6 lite", 918e12, 31.24 * GIB, 1640e9, 100e9, 12.5e9, 2, 256, "v6e", False),
)})


def find_chip(device_kind: str) -> Chip | None:
  """Return the chip that JAX calls `device_kind`, or None if it isn't in the table."""
  kind = {"TPU v5p": "TPU v5", "TPU v5e": "TPU v5 lite", "TPU v6e": "TPU v6 lite"}.get(device_kind, device_kind)
  return next((chip for chip in CHIPS.values() if chip.device_kind == kind), None)


def peak_flops(chip: Chip, dtype: str, precision: str | None = None) -> float:
  """Return the FLOP/s of one chip's matrix products.

  Args:
    chip: of which kind.
    dtype: of their operands.
    precision: JAX's matmul precision. By default float32 operands are rounded to bf16 and multiplied once; "high" makes
      three such products of one, "highest" six.
  """
  return chip.flops / (FLOAT32_PASSES[precision] if dtype == "float32" else 1)
