"""Tokens, hidden states and padded embeddings of prompts equal those of the published code."""

import functools

import numpy as np
import pytest
from flax import nnx
from parity.reference import ROOT, close, files, read

from nova_jax.checkpoints.components import open_part
from nova_jax.checkpoints.weight_files import open_weights
from nova_jax.text.neural import PhiEncoder
from nova_jax.text.tokenizer import load_tokenizer, token_ids

TEXTS = files("*/text.safetensors")


@functools.cache
def load(path):
  """Return the numbers of a file by prompt, and the encoder of its model."""
  arrays, metadata = read(ROOT / path)
  prompts = [
      (text, {name: arrays[f"{name}_{i}"] for name in ("ids", "length", "hidden", "text_embeds")})
      for i, text in enumerate(metadata["prompts"])]
  folder = ROOT / path.parent / "pipeline"
  model = open_part(folder / "text_encoder").load()
  return prompts, PhiEncoder(model, load_tokenizer(folder / "tokenizer"), len(prompts[0][1]["text_embeds"]))


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_tokens(path):
  prompts, encoder = load(path)
  for prompt, expected in prompts:
    ids = token_ids(encoder.tokenizer, prompt)[: encoder.max_length]
    assert ids == expected["ids"][: expected["length"]].tolist(), prompt


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_hidden_states(path):
  """Padding too: the published code sees it as tokens of its own."""
  prompts, encoder = load(path)
  hidden = nnx.merge(encoder.graph, encoder.weights)(np.stack([expected["ids"] for _, expected in prompts]))
  for (prompt, expected), states in zip(prompts, hidden, strict=True):
    close(states, expected["hidden"], 1e-4, prompt)


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_padded_embeddings(path):
  prompts, encoder = load(path)
  null = open_weights(ROOT / path.parent / "pipeline" / "transformer")["text_embed.weight"].read().astype(np.float32)
  embeds, lengths = encoder.encode([prompt for prompt, _ in prompts])
  for (prompt, expected), embed, length in zip(prompts, embeds, lengths, strict=True):
    assert length == expected["length"], prompt
    assert not embed[length:].any(), prompt
    close(np.concatenate([embed[:length], null[length : len(embed)]]), expected["text_embeds"], 1e-4, prompt)
