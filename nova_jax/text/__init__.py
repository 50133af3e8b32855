"""Frozen text encoders, by name."""

from collections.abc import Callable, Collection, Mapping

from nova_jax.config import ModelConfig
from nova_jax.text.base import TextEncoder
from nova_jax.text.neural import PhiEncoder
from nova_jax.text.tokenizer import load_tokenizer
from nova_jax.text.words import PhraseEncoder, WordEncoder
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

__all__ = (
    "BUILT_IN", "PhiEncoder", "PhraseEncoder", "TextEncoder", "WordEncoder", "load_tokenizer", "make_text_encoder")

BUILT_IN: Mapping[str, Callable[..., TextEncoder]] = {"words": WordEncoder, "phrases": PhraseEncoder}


def make_text_encoder(name: str, cfg: ModelConfig, words: Collection[str] = ()) -> TextEncoder:
  """Create the built-in text encoder `name` for a model.

  Args:
    name: name of the encoder.
    cfg: config of the model, for its `text_dim` and `text_len`.
    words: words of the captions that the model was trained on, if they are known.

  Raises:
    UserError: the name is unknown, or the model takes no text.
  """
  if name not in BUILT_IN:
    raise UserError(f"text_encoder: {name!r} is not known{did_you_mean(name, BUILT_IN)}")
  if cfg.text_dim is None:
    raise UserError("text_encoder: the model takes class labels, not text (model.text_dim is None)")
  return BUILT_IN[name](dim=cfg.text_dim, max_length=cfg.text_len, words=frozenset(words))
