"""Embeddings of all prompts of a run, made before anything else: the encoder's memory is free then.

Invariant: an embedding depends on its prompt alone.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from nova_jax.checkpoints.hub import local_folder
from nova_jax.checkpoints.model_folder import load_text_encoder, open_folder
from nova_jax.models.quantization import read_quantize
from nova_jax.pipeline.prompts import naming
from nova_jax.pipeline.request import Texts
from nova_jax.text import TextEncoder


class KnownTexts:
  """Embeddings made before, in place of their encoder, which is not kept; a `TextEncoder`.

  Attributes:
    told: lines that a person should read on how the prompts are read.
  """

  def __init__(self, encoder: TextEncoder):
    self.dim, self.max_length, self.digest = encoder.dim, encoder.max_length, encoder.digest
    self.told: list[str] = []
    self._known = {}

  def add(self, prompts: Sequence[str], encoder: TextEncoder) -> None:
    """Embed prompts that will be asked for."""
    for prompt in prompts:
      if prompt not in self._known:
        # One at a time: the memory of the longest, and numbers that don't depend on the others.
        self._known[prompt] = encoder.encode([prompt])
        self.told += encoder.notes(prompt)

  def notes(self, prompt: str) -> list[str]:
    del prompt  # They are in `told`.
    return []

  def encode(self, prompts: Sequence[str]) -> tuple[Float32[np.ndarray, "B L E"], Int32[np.ndarray, "B"]]:
    embeds, lengths = zip(*(self._known[prompt] for prompt in prompts), strict=True)
    return np.concatenate(embeds), np.concatenate(lengths)


def encode_first(
    checkpoint: str | Path, clips: Sequence[Mapping[str, Any]], places: Sequence[str] = (),
    quantize: Mapping[str, str] | None = None,
) -> KnownTexts | None:
  """Embed all prompts with the text encoder of a model folder, before anything else is loaded; None if it has none."""
  folder = local_folder(checkpoint)
  card = open_folder(folder).card
  quantization = read_quantize(quantize).get("text_encoder")
  encoder = None
  if card.model:
    encoder = load_text_encoder(card.text_encoder, card.model, folder, card.words, quantization)
  return known_texts(encoder, clips, places)


def known_texts(
    encoder: TextEncoder | None, clips: Sequence[Mapping[str, Any]], places: Sequence[str] = ()
) -> KnownTexts | None:
  """Embed all prompts of clips; errors begin with their `places`."""
  if encoder is None:
    return None
  known = KnownTexts(encoder)
  for clip, place in zip(clips, itertools.chain(places, itertools.repeat("")), strict=False):
    later: list[Texts] = list(clip.get("later_prompts", {}).values())
    for value in (clip.get("prompt"), clip.get("negative_prompt", ""), *later):
      with naming(place):
        known.add([value] if isinstance(value, str) else list(value or []), encoder)
  return known
