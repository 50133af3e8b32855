"""What the model is conditioned on beside earlier frames."""

from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int


class Condition(NamedTuple):
  """Texts or classes, and motion, of B samples. What a model doesn't take is None.

  Attributes:
    text_embeds: embeddings of the texts, zeros behind each text.
    text_lengths: number of tokens of each text; 0 for no text.
    labels: number of the class; `num_classes` for no class.
    motion_flow: motion score; None stands for the default.
    fps: frames per second; None stands for the default.
  """

  text_embeds: Float[Array, "B L E"] | None = None
  text_lengths: Int[Array, "B"] | None = None
  labels: Int[Array, "B"] | None = None
  motion_flow: Float[Array, "B"] | None = None
  fps: Float[Array, "B"] | None = None

  @classmethod
  def from_batch(cls, batch: Any) -> "Condition":
    """Return the condition of a training batch, of a mapping that has these fields, or a condition as it is."""
    batch = getattr(batch, "condition", batch)
    return batch if isinstance(batch, cls) else cls(*map(batch.get, cls._fields))

  def without(self, num_classes: int | None) -> "Condition":
    """Return the condition of unconditional passes: an empty text, or no class if there are `num_classes`."""
    if num_classes:
      return self._replace(labels=self.labels * 0 + num_classes)
    return self._replace(text_lengths=self.text_lengths * 0)

  @property
  def num_samples(self) -> int:
    """Number of samples, B."""
    return len(self.text_lengths if self.labels is None else self.labels)
