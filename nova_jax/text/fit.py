"""Texts that are longer than an encoder reads: told from those that fit, and cut as published code does."""

from nova_jax.text.base import TextEncoder
from nova_jax.text.neural import PhiEncoder
from nova_jax.text.tokenizer import token_ids
from nova_jax.text.words import WordEncoder, find_words


def fit(encoder: TextEncoder, text: str) -> tuple[str, bool]:
  """Return what to give an encoder of a text, and whether its end is lost.

  A `PhiEncoder` cuts off tokens itself; a `WordEncoder` refuses what is too long, and is given its first words.

  Raises:
    ValueError: it isn't text.
  """
  if isinstance(encoder, PhiEncoder):
    return text, len(token_ids(encoder.tokenizer, text)) > encoder.max_length
  if isinstance(encoder, WordEncoder) and len(words := find_words(text)) > encoder.max_length:
    return " ".join(words[: encoder.max_length]), True
  return text, False
