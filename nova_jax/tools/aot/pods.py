"""The table of slices and settings for training the released models on each chip, which their configs read.

The axis `data` takes the remaining devices, so that a config works for any number of slices. `benchmarks/pods.py`
compiles every row.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from nova_jax.config import MeshConfig
from nova_jax.utils.chips import CHIPS
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

TOPOLOGIES: Mapping[str, str] = MappingProxyType({
    "v4": "v4:4x4x4", "v5e": "v5e:16x16", "v5p": "v5p:4x4x4", "v6e": "v6e:8x8", "tpu7x": "tpu7x:4x4x4"})

# Generation reads all weights for every set of tokens, so each device should hold all of them.
SAMPLE_MESH = "data=-1"


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Settings for training on one kind of chip."""

  mesh: MeshConfig
  accumulation: int = 1  # At most: each device has a clip in each micro-batch.
  gather_once: bool = False
  remat: str = "dots"


# 1.4 B parameters with optimizer and average then take 1.5 GiB per device. An axis takes whole dimensions of a torus.
_SIXTEEN = MeshConfig(data=-1, fsdp=16)

# Only elementwise work is recomputed, since memory suffices; this saves a quarter of the products.
# Smaller micro-batches make room for this where a device has many samples. Each gathers the weights again, which the
# networks of v4 and v5p hide; a v5e gathers them once a step. The products of a v6e are so fast that its activations
# should stay in VMEM: its micro-batches are the smallest, and weights are gathered once for all of them. A TPU7x, each
# chip of which is two devices, has twice a v6e's memory bandwidth for hardly faster products.
RECIPES: Mapping[str, Recipe] = MappingProxyType({
    "v4": Recipe(_SIXTEEN, accumulation=8),
    "v5e": Recipe(_SIXTEEN, accumulation=4, gather_once=True),
    "v5p": Recipe(_SIXTEEN, accumulation=4),
    "v6e": Recipe(MeshConfig(data=-1, fsdp=8), accumulation=16, gather_once=True),
    "tpu7x": Recipe(MeshConfig(data=-1, fsdp=8), accumulation=8, gather_once=True)})


def recipe(chip: str) -> Recipe:
  """Return the recipe for a chip.

  Raises:
    UserError: the chip is unknown.
  """
  if chip not in RECIPES:
    raise UserError(f"--config=FILE:CHIP: {chip!r} is not a known chip{did_you_mean(chip, RECIPES)}")
  return RECIPES[chip]


def num_micro_batches(chip: str, batch_sizes: Sequence[int]) -> int:
  """Return the number of micro-batches of a step on a chip's slice, for the batches of all stages of a run."""
  num_chips = math.prod(int(side) for side in TOPOLOGIES[chip].partition(":")[2].split("x"))
  num_devices = num_chips * CHIPS[chip].devices
  return min(recipe(chip).accumulation, min(batch_sizes) // num_devices)
