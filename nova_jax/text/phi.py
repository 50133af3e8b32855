"""The Phi language model up to its last hidden states, which is the text encoder of published NOVA checkpoints.

A block applies attention and MLP to the same normalised input, x += Attn(LN(x)) + MLP(LN(x)). The first channels of
queries and keys are rotated by position (Li et al. 2023, "Textbooks are all you need II"; Su et al. 2021, RoFormer).
Weights keep their stored dtype and are converted one layer at a time; activations are float32.
Invariant: a token's output depends only on itself and earlier tokens, so padding after a text changes nothing.
"""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from nova_jax.config import LARGEST
from nova_jax.models.attention.dense import dense
from nova_jax.models.attention.masks import BlockCausal
from nova_jax.models.layers import MLP, LayerNorm, Linear, parameter, stack
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import kind_name

MOST_LAYERS = 1000
_CAUSAL = BlockCausal(prefix=0, frame=1)  # Each token is a frame.


@dataclasses.dataclass(frozen=True)
class PhiConfig:
  """Sizes of a Phi model under their published names; the defaults are those of the transformers library."""

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  max_position_embeddings: int = 2048
  layer_norm_eps: float = 1e-5
  partial_rotary_factor: float = 0.5  # Fraction of a head's channels that are rotated.
  rope_theta: float = 10000.0

  @classmethod
  def from_published(cls, values: Mapping[str, Any]) -> "PhiConfig":
    """Read a published `text_encoder/config.json`; rotary settings are at its top or under "rope_parameters".

    Raises:
      UserError: a field is missing, or has a value that this model does not support.
    """
    rope = {}
    for key in ("rope_scaling", "rope_parameters"):
      if not isinstance(values.get(key) or {}, Mapping):
        raise UserError(f"text encoder: {key}: expected an object, got {values[key]!r}")
      rope |= values.get(key) or {}
    given = {key: value for source in (rope, values) for key, value in source.items() if value is not None}
    for key in ("partial_rotary_factor", "rope_theta"):
      if key in rope and given.get(key) != rope[key]:
        raise UserError(f"text encoder: {key} is {given[key]!r} but {rope[key]!r} in rope_parameters: keep one")
    only = {
        "hidden_act": "gelu_new", "qk_layernorm": False, "num_key_value_heads": given.get("num_attention_heads"),
        "rope_type": "default", "type": "default"}  # The second is an older name.
    for key, expected in only.items():
      if given.get(key, expected) != expected:
        raise UserError(f"text encoder: {key}: expected {expected!r}, got {given[key]!r}")
    kinds = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
      kind = kinds[field.name]
      value = given.get(field.name, None if field.default is dataclasses.MISSING else field.default)
      largest = MOST_LAYERS if field.name == "num_hidden_layers" else LARGEST
      if isinstance(value, bool) or not isinstance(value, (int, kind)) or not 0 < value <= largest:
        raise UserError(
            f"text encoder: {field.name}: expected {kind_name(kind)} above 0, up to {largest}, got {value!r}")
    cfg = cls(**{field.name: given[field.name] for field in dataclasses.fields(cls) if field.name in given})
    if cfg.hidden_size % cfg.num_attention_heads or cfg.partial_rotary_factor > 1:
      raise UserError(
          "text encoder: expected a hidden_size that num_attention_heads divides and a partial_rotary_factor of at "
          f"most 1, got {cfg.hidden_size}, {cfg.num_attention_heads} and {cfg.partial_rotary_factor}")
    return cfg

  @property
  def head_dim(self) -> int:
    return self.hidden_size // self.num_attention_heads


class Embed(nnx.Module):
  """A table with one row per token of the vocabulary."""

  def __init__(self, num: int, dim: int, *, rngs: nnx.Rngs):
    self.weight = parameter(0.02 * jax.random.normal(rngs.params(), (num, dim)), ("vocab", "embed"))

  def __call__(self, tokens: Int[Array, "B L"]) -> Float32[Array, "B L E"]:
    return self.weight[...][tokens].astype(jnp.float32)


def rotate(x: Float[Array, "B L H K"], fraction: float, theta: float) -> Float[Array, "B L H K"]:
  """Rotate the first `fraction` of each head's channels by position; their first half pairs with the second."""
  dim = int(fraction * x.shape[-1])
  half = dim // 2
  frequencies = theta ** -(2 * np.arange(half, dtype=np.float32) / dim)
  angles = np.arange(x.shape[1], dtype=np.float32)[:, None, None] * frequencies
  cos, sin = np.cos(angles), np.sin(angles)
  x0, x1, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
  return jnp.concatenate([x0 * cos - x1 * sin, x0 * sin + x1 * cos, rest], axis=-1)


class Attention(nnx.Module):
  """Causal self-attention with partly rotated queries and keys."""

  def __init__(self, cfg: PhiConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    embed, heads = (cfg.hidden_size,), (cfg.num_attention_heads, cfg.head_dim)
    axes = ("embed", "heads", "head_dim")
    self.q_proj = Linear(embed, heads, axes, rngs=rngs)
    self.k_proj = Linear(embed, heads, axes, rngs=rngs)
    self.v_proj = Linear(embed, heads, axes, rngs=rngs)
    self.dense = Linear(heads, embed, ("heads", "head_dim", "embed"), rngs=rngs)

  def __call__(self, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
    turn = functools.partial(rotate, fraction=self.cfg.partial_rotary_factor, theta=self.cfg.rope_theta)
    return self.dense(dense(turn(self.q_proj(x)), turn(self.k_proj(x)), self.v_proj(x), _CAUSAL))


class Block(nnx.Module):
  """Attention and MLP in parallel, on the same normalised input."""

  def __init__(self, cfg: PhiConfig, *, rngs: nnx.Rngs):
    self.input_layernorm = LayerNorm(cfg.hidden_size, eps=cfg.layer_norm_eps)
    self.self_attn = Attention(cfg, rngs=rngs)
    # jax.nn.gelu is the tanh approximation, published as "gelu_new".
    self.mlp = MLP(cfg.hidden_size, cfg.intermediate_size, cfg.hidden_size, jax.nn.gelu, rngs=rngs)

  def __call__(self, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
    y = self.input_layernorm(x)
    return x + self.self_attn(y) + self.mlp(y)


class Phi(nnx.Module):
  """Maps token ids to hidden states."""

  def __init__(self, cfg: PhiConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.embed_tokens = Embed(cfg.vocab_size, cfg.hidden_size, rngs=rngs)
    self.layers = stack(lambda rngs: Block(cfg, rngs=rngs), cfg.num_hidden_layers, rngs)
    self.final_layernorm = LayerNorm(cfg.hidden_size, eps=cfg.layer_norm_eps)

  def __call__(self, tokens: Int[Array, "B L"]) -> Float32[Array, "B L E"]:
    """Return the normalised last hidden states, in float32 whatever the dtype of the weights."""
    graph, weights = nnx.split(self.layers)

    def run_block(x, i):
      # Makes the stack appear to depend on x. XLA's CPU backend would otherwise convert all of it from bfloat16 to
      # float32 before the loop.
      tied, x = jax.lax.optimization_barrier((weights, x))
      layer = jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, i, keepdims=False), tied)
      return nnx.merge(graph, layer)(x), None

    x, _ = jax.lax.scan(run_block, self.embed_tokens(tokens), jnp.arange(self.cfg.num_hidden_layers))
    return self.final_layernorm(x)
