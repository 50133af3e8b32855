"""Truncation of texts that are longer than an encoder reads."""

from nova_jax.text.base import TextEncoder
from nova_jax.text.neural import PhiEncoder
from nova_jax.text.tokenizer import token_ids
from nova_jax.text.words import WordEncoder, find_words


def truncate(encoder: TextEncoder, text: str) -> tuple[str, bool]:
  """Return the text to pass to an encoder, and whether its end is lost.

  A `PhiEncoder` truncates long texts itself. A `WordEncoder` would refuse them, and gets their first words.

  Raises:
    UserError: the text is not valid Unicode.
  """
  if isinstance(encoder, PhiEncoder):
    return text, len(token_ids(encoder.tokenizer, text)) > encoder.max_length
  if isinstance(encoder, WordEncoder) and len(words := find_words(text)) > encoder.max_length:
    return " ".join(words[: encoder.max_length]), True
  return text, False
