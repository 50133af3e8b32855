"""The Phi text encoder: its config, what a token depends on, its memory, and how prompts are batched."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE

from nova_jax.text import neural
from nova_jax.text.neural import PhiEncoder
from nova_jax.text.phi import Phi, PhiConfig, rotate

CFG = PhiConfig(
    vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=80, partial_rotary_factor=0.4)
PUBLISHED = dataclasses.asdict(CFG) | {
    "hidden_act": "gelu_new", "qk_layernorm": False, "num_key_value_heads": 2, "rope_scaling": None}


def shapes_of(cfg):
  return nnx.eval_shape(lambda: Phi(cfg, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def encoder():
  """An encoder of one token for each byte, with random weights."""
  graph, shapes = nnx.split(shapes_of(CFG))
  draw = np.random.default_rng(0)
  model = nnx.merge(graph, jax.tree.map(lambda w: jnp.asarray(draw.normal(0, 0.3, w.shape), jnp.float32), shapes))
  tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  return PhiEncoder(model, tokenizer, 66)


def test_both_styles_of_config():
  assert PhiConfig.from_published(PUBLISHED) == CFG
  nested = {"rope_type": "default", "rope_theta": CFG.rope_theta, "partial_rotary_factor": 0.4}
  new = {key: value for key, value in PUBLISHED.items() if key not in nested} | {"rope_parameters": nested}
  assert PhiConfig.from_published(new) == PhiConfig.from_published(PUBLISHED | new) == CFG


@pytest.mark.parametrize("change, message", [
    ({"hidden_act": "relu"}, "hidden_act: expected 'gelu_new', got 'relu'"), ({"qk_layernorm": True}, "qk_layernorm"),
    ({"num_key_value_heads": 1}, "num_key_value_heads: expected 2, got 1"),
    ({"rope_scaling": [1]}, "rope_scaling: expected an object"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type: expected 'default', got 'linear'"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type"),
    ({"rope_parameters": {"rope_theta": 5000.0}}, "rope_theta is 10000.0 but 5000.0"),
    ({"vocab_size": None}, "vocab_size: expected a whole number above 0"), ({"hidden_size": "32"}, "hidden_size"),
    ({"num_hidden_layers": 0}, "num_hidden_layers"), ({"hidden_size": 33}, "num_attention_heads divides"),
    ({"partial_rotary_factor": 1.5}, "at most 1")])
def test_what_cannot_be_honoured_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    PhiConfig.from_published(PUBLISHED | change)


def test_rotation_tells_distance_only():
  x = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 20)).astype(np.float32)
  q, k = (np.asarray(rotate(np.tile(row, (1, 9, 1, 1)), 0.4, 100.0))[0, :, 0] for row in x)
  scores = q @ k.T
  np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], rtol=1e-5)
  assert np.ptp(scores[0]) > 0.1
  np.testing.assert_array_equal(q[:, 8:], np.tile(x[0, 0, :, 0, 8:], (9, 1)))  # 0.4 · 20 channels turn.
  assert np.all(q[1:, :8] != q[:1, :8])


def test_a_token_sees_itself_and_earlier_ones(encoder):
  (before, after), _ = encoder.encode(["some text", "some_text"])
  np.testing.assert_array_equal(before[:4], after[:4])
  assert np.abs(before - after)[4:9].max(-1).min() > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_stored_weights_are_converted_layer_by_layer(dtype):
  """Converted as a whole, float32 copies would take twice the memory of the weights."""
  cfg = dataclasses.replace(CFG, hidden_size=128, intermediate_size=512, num_hidden_layers=16)
  graph, shapes = nnx.split(shapes_of(cfg))
  stored = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape.shape, dtype), shapes)
  run = jax.jit(lambda weights, tokens: nnx.merge(graph, weights)(tokens))
  lowered = run.lower(stored, jax.ShapeDtypeStruct((1, 8), jnp.int32))
  assert lowered.out_info.dtype == jnp.float32
  memory = lowered.compile().memory_analysis()
  assert memory.temp_size_in_bytes < memory.argument_size_in_bytes / 4


def test_prompts_are_cut_padded_and_independent(encoder):
  embeds, lengths = encoder.encode(["ab", "", "c" * 90, "é!"])
  assert embeds.shape == (4, 66, CFG.hidden_size) and embeds.dtype == np.float32
  assert lengths.tolist() == [2, 0, 66, 3] and lengths.dtype == np.int32
  for embed, length in zip(embeds, lengths, strict=True):
    assert embed[:length].any(-1).all() and not embed[length:].any()
  for place, prompt in ((0, "ab"), (2, "c" * 66)):
    alone, _ = encoder.encode([prompt])
    np.testing.assert_allclose(embeds[place], alone[0], rtol=0, atol=1e-5)


def test_batches_have_few_shapes():
  lengths = np.random.default_rng(0).permutation(200)
  batches = list(neural._batches([[place + 1] * length for place, length in enumerate(lengths)], 199))
  assert {tokens.shape[0] for _, tokens in batches} <= {1, 2, 4, 8}
  assert {tokens.shape[1] for _, tokens in batches} == {64, 128, 192, 199}
  found = {place: row for places, tokens in batches for place, row in zip(places, tokens, strict=False)}
  assert sorted(found) == np.flatnonzero(lengths).tolist()
  for place, row in found.items():
    length = lengths[place]
    assert (row[:length] == place + 1).all() and not row[length:].any() and len(row) - length < 64


def test_parts_that_do_not_fit_are_refused(encoder):
  with pytest.raises(ValueError, match="max_position_embeddings 80, but 81"):
    PhiEncoder(shapes_of(CFG), encoder.tokenizer, 81)
  with pytest.raises(ValueError, match="256 tokens, but the text encoder's vocab_size is 255"):
    PhiEncoder(shapes_of(dataclasses.replace(CFG, vocab_size=255)), encoder.tokenizer, 66)


def test_a_cut_prompt_says_where(encoder):
  assert encoder.notes("a" * 66) == []
  (note,) = encoder.notes("ab" * 30 + " the last word")
  assert "has 74 tokens and is cut: the model reads the first 66, up to" in note and note.endswith("abab the l'")
