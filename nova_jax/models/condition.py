"""What the model is conditioned on beside earlier frames."""

from typing import Any, NamedTuple, TypeVar

from jaxtyping import Float, Int

from nova_jax.utils.arrays import AnyArray
from nova_jax.utils.errors import UserError

Value = TypeVar("Value")


class Condition(NamedTuple):
  """Texts or classes, and motion, of B samples. What a model doesn't take is None.

  Attributes:
    text_embeds: embeddings of the texts, zeros behind each text.
    text_lengths: number of tokens of each text; 0 for no text.
    labels: number of the class; `num_classes` for no class.
    motion_flow: motion score; None stands for the default.
    fps: frames per second; None stands for the default.
  """

  text_embeds: Float[AnyArray, "B L E"] | None = None
  text_lengths: Int[AnyArray, "B"] | None = None
  labels: Int[AnyArray, "B"] | None = None
  motion_flow: Float[AnyArray, "B"] | None = None
  fps: Float[AnyArray, "B"] | None = None

  @classmethod
  def from_batch(cls, batch: Any) -> "Condition":
    """Return the condition of a training batch, of a mapping that has these fields, or a condition as it is."""
    batch = getattr(batch, "condition", batch)
    return batch if isinstance(batch, cls) else cls(*map(batch.get, cls._fields))

  def without(self, num_classes: int | None) -> "Condition":
    """Return the condition of unconditional passes: an empty text, or no class if there are `num_classes`."""
    if num_classes:
      return self._replace(labels=required(self.labels, "labels") * 0 + num_classes)
    return self._replace(text_lengths=required(self.text_lengths, "text_lengths") * 0)

  @property
  def num_samples(self) -> int:
    """Number of samples, B."""
    return len(required(self.text_lengths, "text_lengths") if self.labels is None else self.labels)


def required(value: Value | None, name: str) -> Value:
  """Return a field of a condition that the model takes.

  Raises:
    UserError: it is None.
  """
  if value is None:
    raise UserError(f"condition: this model takes {name}, and there are none")
  return value
