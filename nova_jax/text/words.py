"""Built-in text encoders without a network: every word has its own fixed random vector.

A token's embedding is, up to a constant that normalises its variance to 1,
  word[i] + 0.5 · position[i] + Σ_d weight[d] · (roll(word[i-d], d) + roll(word[i+d], -d)).
The transformer adds no positions to text tokens, so the position and the neighbours encode the order of words. Captions
of one digit do with the weight 0.25 for the next word ("words"). Where two are to be told apart, a word has to say what
it belongs to, and two neighbours on either side count nearly as much as the word itself ("phrases"). Vectors are
derived from digests of the letters by additions and products only.
Invariant: a prompt gives the same bytes on every machine and with every Python version.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int32

from nova_jax.text.base import check_length, shorten_text
from nova_jax.utils.digests import digest_values

_PLACE_WEIGHT = 0.5


@dataclasses.dataclass(frozen=True)
class WordEncoder:
  """A `TextEncoder` that embeds lower-cased words and punctuation marks, each as one token.

  Attributes:
    dim: width E of an embedding.
    max_length: largest number L of tokens in a prompt.
    words: words that the model was trained on, which `notes` needs; empty if they are unknown.
  """

  dim: int = 64
  max_length: int = 16
  words: frozenset[str] = dataclasses.field(default=frozenset(), repr=False)  # Caches digest `repr`.
  NEIGHBOUR_WEIGHTS: ClassVar[tuple[float, ...]] = (0.25,)  # By the distance, from 1 on.

  def encode(self, prompts: Sequence[str]) -> tuple[Float32[np.ndarray, "B L E"], Int32[np.ndarray, "B"]]:
    """Embed prompts: see `TextEncoder.encode`."""
    embeds = np.zeros((len(prompts), self.max_length, self.dim), np.float32)
    lengths = np.zeros(len(prompts), np.int32)
    for i, prompt in enumerate(prompts):
      tokens = _embed(prompt, self.dim, self.max_length, self.NEIGHBOUR_WEIGHTS)
      embeds[i, :len(tokens)] = tokens
      lengths[i] = len(tokens)
    return embeds, lengths

  @property
  def digest(self) -> str:
    return digest_values([self.dim, self.max_length])

  def notes(self, prompt: str) -> list[str]:
    """Return a note that names the words that the model has never seen."""
    found = dict.fromkeys(re.findall(r"\w+", prompt.lower()) or find_words(prompt))  # Signs if there are no words.
    unknown = [word for word in found if word not in self.words]
    if not unknown or not self.words:
      return []
    return [
        f"the prompt {shorten_text(prompt)!r} has words that the model has never seen, which say nothing to it: "
        f"{', '.join(unknown)}; it knows {', '.join(sorted(self.words))}"]


class PhraseEncoder(WordEncoder):
  """A `WordEncoder` whose tokens say more of the words around them."""

  NEIGHBOUR_WEIGHTS = (1.0, 0.7)

  @property
  def digest(self) -> str:
    return digest_values([self.dim, self.max_length, *self.NEIGHBOUR_WEIGHTS])


@functools.lru_cache(maxsize=4096)  # A training run encodes the same few captions again and again.
def _embed(prompt: str, dim: int, max_length: int, weights: tuple[float, ...]) -> np.ndarray:
  words = find_words(prompt)
  check_length(prompt, len(words), max_length)
  if not words:
    return np.zeros((0, dim), np.float32)
  vectors = np.stack([_vector(f"word {word}", dim) for word in words])
  positions = np.stack([_vector(f"place {i}", dim) for i in range(len(words))])
  embeds = vectors + _PLACE_WEIGHT * positions
  for distance, weight in enumerate(weights, start=1):
    neighbours = np.zeros_like(vectors)
    neighbours[distance:] += np.roll(vectors[:-distance], distance, axis=1)
    neighbours[:-distance] += np.roll(vectors[distance:], -distance, axis=1)
    embeds += weight * neighbours
  embeds *= np.float32((1 + _PLACE_WEIGHT**2 + 2 * sum(weight**2 for weight in weights)) ** -0.5)
  embeds.flags.writeable = False
  return embeds


def find_words(prompt: str) -> list[str]:
  """Return the tokens of a prompt."""
  return re.findall(r"\w+|[^\w\s]", prompt.lower())


@functools.lru_cache(maxsize=4096)
def _vector(name: str, dim: int) -> np.ndarray:
  """Return `dim` pseudo-random values that are uniform in ±√3, with mean 0 and variance 1."""
  digest = hashlib.shake_256(name.encode()).digest(2 * dim)
  uniform = (np.frombuffer(digest, "<u2").astype(np.float32) + 0.5) / 2**16
  return (2 * uniform - 1) * np.float32(3**0.5)
