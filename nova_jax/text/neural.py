"""The text encoder of published checkpoints: a tokenizer, and the last hidden states of a language model.

Invariant: except for rounding, a prompt's embedding does not depend on the other prompts of a batch or on padding.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Int, Int32
from tokenizers import Tokenizer

from nova_jax.text.base import shorten_text
from nova_jax.text.phi import Phi
from nova_jax.text.tokenizer import token_ids
from nova_jax.utils.digests import digest_arrays, digest_values
from nova_jax.utils.errors import UserError

# Texts are padded to a multiple of the first number and run in batches of a power of two up to the second. A prompt of
# a few words then costs 64 tokens, memory is bounded, and 256 tokens need at most 4 · 4 programs, compiled on demand.
_LENGTH, _ROWS = 64, 8
_SHOWN = 40  # Number of characters before the cut that a note shows.


class PhiEncoder:
  """A `TextEncoder` that embeds prompts with a Phi model, and truncates long ones.

  Args:
    model: language model with its weights, which are used in place.
    tokenizer: tokenizer that `model` was trained with.
    max_length: largest number of tokens in a prompt, `ModelConfig.text_len`.

  Raises:
    UserError: model, tokenizer and `max_length` don't match.
  """

  def __init__(self, model: Phi, tokenizer: Tokenizer, max_length: int):
    cfg = model.cfg
    if max_length > cfg.max_position_embeddings:
      raise UserError(
          f"text encoder: it has max_position_embeddings {cfg.max_position_embeddings}, but {max_length} tokens are "
          "asked for")
    num_tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if num_tokens > cfg.vocab_size:
      raise UserError(f"tokenizer: it has {num_tokens} tokens, but the text encoder's vocab_size is {cfg.vocab_size}")
    self.dim = cfg.hidden_size
    self.max_length = max_length
    self.tokenizer = tokenizer
    self.cfg = cfg
    self.graph, self.weights = nnx.split(model)

  @functools.cached_property
  def digest(self) -> str:
    return digest_values([repr(self.cfg), self.max_length, self.tokenizer.to_str(), digest_arrays(self.weights)])

  def notes(self, prompt: str) -> list[str]:
    """Return a note that shows where a long prompt is cut off."""
    ids = token_ids(self.tokenizer, prompt)
    if len(ids) <= self.max_length:
      return []
    heard = prompt[: self.tokenizer.encode(prompt, add_special_tokens=False).offsets[self.max_length - 1][1]]
    return [
        f"the prompt {shorten_text(prompt)!r} has {len(ids)} tokens and is cut: the model reads the first "
        f"{self.max_length}, up to {heard[-_SHOWN:]!r}"]

  def encode(self, prompts: Sequence[str]) -> tuple[Float32[np.ndarray, "B L E"], Int32[np.ndarray, "B"]]:
    """Embed prompts: see `TextEncoder.encode`."""
    ids = [token_ids(self.tokenizer, prompt)[: self.max_length] for prompt in prompts]
    embeds = np.zeros((len(ids), self.max_length, self.dim), np.float32)
    for places, tokens in _batches(ids, self.max_length):
      hidden = np.asarray(_run(self.graph, self.weights, tokens))
      for place, states in zip(places, hidden, strict=False):
        embeds[place, : len(ids[place])] = states[: len(ids[place])]
    return embeds, np.array([len(row) for row in ids], np.int32)


def _batches(
    ids: Sequence[Sequence[int]], max_length: int
) -> Iterator[tuple[list[int], Int[np.ndarray, "rows length"]]]:
  """Yield batches of prompts of similar length: their indices and padded tokens; empty prompts are left out."""
  for length in range(_LENGTH, max_length + _LENGTH, _LENGTH):
    of_length = [place for place, row in enumerate(ids) if length - _LENGTH < len(row) <= length]
    for start in range(0, len(of_length), _ROWS):
      places = of_length[start : start + _ROWS]
      tokens = np.zeros((1 << (len(places) - 1).bit_length(), min(length, max_length)), np.int32)
      for row, place in zip(tokens, places, strict=False):
        row[: len(ids[place])] = ids[place]
      yield places, tokens


@functools.partial(jax.jit, static_argnums=0)
def _run(graph: nnx.GraphDef, weights: nnx.State, tokens: Int[Array, "B L"]) -> Float32[Array, "B L E"]:
  return nnx.merge(graph, weights)(tokens)
