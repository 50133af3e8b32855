"""The interface of frozen text encoders.

Invariant: an encoder is a pure function of its prompts; what is past the end of a text is zero and not counted in its
length (the model puts its own padding table there).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int32

from nova_jax.utils.errors import UserError


class TextEncoder(Protocol):
  """Turns prompts into embeddings; never trained.

  A prompt of more than `max_length` tokens is cut off (`PhiEncoder`, as in the published code) or refused
  (`WordEncoder`, whose users write short captions).
  """

  dim: int  # E, width of an embedding.
  max_length: int  # L, most tokens of a prompt.
  digest: str  # Of all that embeddings depend on, weights included.

  def encode(self, prompts: Sequence[str]) -> tuple[Float32[np.ndarray, "B L E"], Int32[np.ndarray, "B"]]:
    """Embed prompts.

    Returns:
      Embeddings, zeros after the text, and the number of tokens of each; an empty prompt has none.

    Raises:
      ValueError: a prompt is too long for an encoder that refuses, or is not text.
    """

  def notes(self, prompt: str) -> list[str]:
    """Return what a person should know of how a prompt is read, such as that its end isn't."""


def check_length(prompt: str, length: int, max_length: int):
  """Raise a ValueError that names a prompt of more than `max_length` tokens."""
  if length > max_length:
    raise UserError(f"prompt {shorten_text(prompt)!r} has {length} tokens, at most {max_length} fit: shorten it")


def shorten_text(prompt: str) -> str:
  """Return what stands for a prompt in a message."""
  return prompt if len(prompt) <= 60 else prompt[:57] + "..."
