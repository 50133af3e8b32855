"""What a generation is made from: conditions, given frames and tokens, and randomness. A `Plan` says how."""

import types
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nova_jax.models.condition import Condition
from nova_jax.utils.arrays import AnyArray


class Noise(NamedTuple):
  """All noise of a generation, for the F frames that are generated and their S non-empty sets.

  Attributes:
    start: noise that each set begins with.
    steps: noise that a DDPM sampler adds after each of its K steps; None where it adds none.
  """

  start: Float[AnyArray, "F S B h w C"]
  steps: Float[AnyArray, "F S K B h w C"] | None = None


class KnownTokens(NamedTuple):
  """Tokens that are kept as they are: the rest of the picture is made to fit them.

  Attributes:
    latents: latent frames that hold them.
    mask: tokens that are known, the same for all samples.
  """

  latents: Float[AnyArray, "B T h w C"]
  mask: Bool[np.ndarray, "T N"]


class Conditions(NamedTuple):
  """What the passes of guidance see, of B samples.

  Attributes:
    conditional: text or labels, and motion.
    unconditional: the same for the unconditional passes: an empty caption, "no class" or a negative prompt.
  """

  conditional: Condition
  unconditional: Condition


class Inputs(NamedTuple):
  """The inputs of one generation of B samples.

  Attributes:
    conditions: conditions from the first frame on.
    keys: one key for each sample, from which all its randomness derives.
    prefix_latents: first G latent frames, which are kept as they are and condition all later ones.
    known_tokens: tokens of all frames that are kept as they are; they lead the order.
    changes: conditions that take over, by latent frame.
    order: order in which tokens are written, to reproduce a generation; None for that of the plan.
    noise: noise, to reproduce a generation; None draws it from `keys`.
  """

  conditions: Conditions
  keys: Key[Array, "B"]
  prefix_latents: Float[AnyArray, "B G h w C"] | None = None
  known_tokens: KnownTokens | None = None
  changes: Mapping[int, Conditions] = types.MappingProxyType({})
  order: Int[AnyArray, "B N"] | None = None
  noise: Noise | None = None

  @property
  def num_given(self) -> int:
    """Number of latent frames that are given, G."""
    return 0 if self.prefix_latents is None else self.prefix_latents.shape[1]
