"""The interface of frozen text encoders.

Invariant: an encoder is a pure function of its prompts. Embeddings after the end of a text are zero and not counted in
its length; the model fills them from its own padding table.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int32

from nova_jax.utils.errors import UserError


class TextEncoder(Protocol):
  """Maps prompts to embeddings; it is never trained.

  A prompt of more than `max_length` tokens is truncated by `PhiEncoder`, as in the published code, and refused by
  `WordEncoder`, which is meant for short captions.
  """

  @property
  def dim(self) -> int:
    """Width E of an embedding."""

  @property
  def max_length(self) -> int:
    """Largest number L of tokens in a prompt."""

  @property
  def digest(self) -> str:
    """Digest of all that embeddings depend on, weights included."""

  def encode(self, prompts: Sequence[str]) -> tuple[Float32[np.ndarray, "B L E"], Int32[np.ndarray, "B"]]:
    """Embed prompts.

    Returns:
      Embeddings, which are zero after the text, and the number of tokens of each prompt; an empty prompt has none.

    Raises:
      UserError: a prompt is not valid text, or too long for an encoder that does not truncate.
    """

  def notes(self, prompt: str) -> list[str]:
    """Return notes for the user on how a prompt is read, for instance that its end is cut off."""


def check_length(prompt: str, length: int, max_length: int):
  """Raise UserError if a prompt has more than `max_length` tokens."""
  if length > max_length:
    raise UserError(f"prompt {shorten_text(prompt)!r} has {length} tokens, at most {max_length} fit: shorten it")


def shorten_text(prompt: str) -> str:
  """Return a prompt shortened for messages."""
  return prompt if len(prompt) <= 60 else prompt[:57] + "..."
