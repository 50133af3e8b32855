"""What a training step learns from: latents of clips, and what they are conditioned on."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from nova_jax.models.condition import Condition, required
from nova_jax.utils.arrays import AnyArray


class Batch(NamedTuple):
  """A training batch of B samples, as arrays of JAX or NumPy.

  Attributes:
    latents: latents of the clips.
    condition: caption or class of each clip, and its motion.
    index: position of each sample in the stream of records modulo 2³¹, from which the trainer derives its random key.
    given: number of first frames that each clip is continued from, whose errors don't count; None for none.
  """

  latents: Float[AnyArray, "B T h w C"]
  condition: Condition
  index: Int[AnyArray, "B"] | None = None
  given: Int[AnyArray, "B"] | None = None


def as_batch(batch: Batch | Mapping[str, AnyArray]) -> Batch:
  """Return a batch that may be given as a mapping, with the fields of its condition beside its own."""
  if isinstance(batch, Batch):
    return batch
  return Batch(batch["latents"], Condition.from_batch(batch), batch.get("index"), batch.get("given"))


def drop_captions(condition: Condition, keys: Key[Array, "B"], rate: float, num_classes: int | None) -> Condition:
  """Replace the caption or class of a random fraction of samples by none, so that a model learns guidance.

  Args:
    condition: condition of a training batch.
    keys: random key of each sample.
    rate: probability that a sample loses its caption or class.
    num_classes: number of classes, which is the label of no class; None for captions.
  """
  if not rate:
    return condition
  dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
  if condition.labels is not None:
    return condition._replace(labels=jnp.where(dropped, required(num_classes, "classes"), condition.labels))
  return condition._replace(text_lengths=jnp.where(dropped, 0, required(condition.text_lengths, "text_lengths")))
