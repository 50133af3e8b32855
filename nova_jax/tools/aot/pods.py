"""Which slice of each chip to train the released models on, and how: the one table that their configs read.

`data` takes what is left, so that a config serves any number of slices. `benchmarks/pods.py` compiles every row.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from nova_jax.config import MeshConfig
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

TOPOLOGIES: Mapping[str, str] = MappingProxyType({
    "v4": "v4:4x4x4", "v5e": "v5e:16x16", "v5p": "v5p:4x4x4", "v6e": "v6e:8x8"})

# Generation reads all weights for every set of tokens: each device better has them all.
SAMPLE_MESH = "data=-1"


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How to train on one kind of chip."""

  mesh: MeshConfig
  accumulation: int = 1
  remat: str = "dots"


# 1.4 B parameters with optimizer and average are then 1.5 GiB a device; an axis lies along whole dimensions of a torus.
_SIXTEEN = MeshConfig(data=-1, fsdp=16)

# Nothing but elementwise work is computed again: there is memory enough, and it saves a quarter of the products.
# Smaller micro-batches make room for that where a device has many samples; each gathers the weights once more, which
# these networks hide.
RECIPES: Mapping[str, Recipe] = MappingProxyType({
    "v4": Recipe(_SIXTEEN, accumulation=4),
    "v5e": Recipe(_SIXTEEN),
    "v5p": Recipe(_SIXTEEN, accumulation=4),
    "v6e": Recipe(MeshConfig(data=-1, fsdp=8), accumulation=4)})


def recipe(chip: str) -> Recipe:
  """Return the recipe for a chip; an unknown one is a ValueError."""
  if chip not in RECIPES:
    raise UserError(f"--config=FILE:CHIP: {chip!r} is not a known chip{did_you_mean(chip, RECIPES)}")
  return RECIPES[chip]
