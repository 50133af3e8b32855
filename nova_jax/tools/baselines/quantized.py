"""A baseline of NOVA: autoregression over the codes of vector-quantised tokens, one after another in raster order.

  code_i = argmin_c ‖token_i − codebook_c‖²,   loss = −mean_i log p(code_i | text, code_0 … code_{i−1})

The sequence is [text, begin, code 0 … code S − 2]; the input at place i carries the position of the token it predicts.
The codebook holds the k-means centres of training tokens: nothing that it can't show is ever generated, which
`round_trip` measures. Generation draws a code at a time from guided logits u + g·(c − u), with a KV cache.
Invariant: the logits of a token depend on earlier codes and the text alone.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from nova_jax.config import ModelConfig
from nova_jax.diffusion.batch import Batch
from nova_jax.models.attention.dense import dense
from nova_jax.models.attention.masks import BlockCausal, ValidKeys
from nova_jax.models.condition import Condition
from nova_jax.models.layers import Buffer, Linear, parameter, unstack
from nova_jax.models.nova import TOKEN_AXES
from nova_jax.models.transformer import Block
from nova_jax.parallel.sharding import gather_weight
from nova_jax.sampling.frame_context import Model
from nova_jax.sampling.guidance import Strength
from nova_jax.tools.baselines.backbone import Backbone, clips_of, forward_flops, tokens_of, with_null
from nova_jax.tools.baselines.task import Baseline
from nova_jax.train.step import Metrics
from nova_jax.utils.errors import UserError

CODE_AXES = ("vocab", "embed")
KMEANS_ROUNDS = 20


def fit_codebook(tokens: Float[np.ndarray, "n P"], num_codes: int, seed: int) -> Float[np.ndarray, "codes P"]:
  """Return the k-means centres of tokens, each counted as often as it is there (Lloyd's algorithm).

  Raises:
    UserError: fewer different tokens than codes.
  """
  different, counts = np.unique(tokens, axis=0, return_counts=True)
  if len(different) < num_codes:
    raise UserError(f"num_codes: {num_codes} codes need as many different tokens, the data has {len(different)}")
  # Each kind of token is as likely to be a first centre: most tokens are the same black one.
  codebook = different[np.random.default_rng(seed).choice(len(different), num_codes, replace=False)]
  for _ in range(KMEANS_ROUNDS):
    codes = np.asarray(nearest(different, codebook))
    sizes = np.bincount(codes, counts, num_codes)[:, None]
    sums = np.stack([np.bincount(codes, counts * column, num_codes) for column in different.T], axis=1)
    codebook = np.where(sizes > 0, sums / np.maximum(sizes, 1), codebook).astype(np.float32)
  return codebook


def nearest(tokens: Float[Array, "... P"], codebook: Float[Array, "codes P"]) -> Int[Array, "..."]:
  """Return the code of each token."""
  # ‖token‖² is the same for all codes.
  return jnp.argmin(jnp.square(codebook).sum(-1) - 2 * tokens @ codebook.T, axis=-1)


def round_trip(
    latents: Float[Array, "B T h w C"], codebook: Float[Array, "codes P"], cfg: ModelConfig
) -> Float[Array, "B T h w C"]:
  """Return clips as the codebook shows them."""
  return clips_of(codebook[nearest(tokens_of(latents, cfg), codebook)], cfg)


class RasterModel(nnx.Module):
  """A causal transformer over codes."""

  def __init__(self, cfg: ModelConfig, codebook: Float[np.ndarray, "codes P"], *, rngs: nnx.Rngs):
    self.cfg = cfg
    num_codes = len(codebook)
    self.codebook = parameter(jnp.asarray(codebook), ("vocab", "patch"), Buffer)
    # As large as the positions that are added; far smaller, codes would be slow to be seen.
    self.code_embed = parameter(rngs.params.normal((num_codes, cfg.width)), CODE_AXES)
    self.begin = parameter(rngs.params.normal((1, cfg.width)), TOKEN_AXES)
    self.backbone = Backbone(cfg, rngs=rngs)
    self.head = Linear((cfg.width,), (num_codes,), ("embed", "vocab"), zero=True, rngs=rngs)

  def __call__(
      self, codes: Int[Array, "B S"], condition: Condition, num_frames: int
  ) -> Float[Array, "B S codes"]:
    """Return the logits of every code of a clip, given those before it."""
    return self.predict(self.embed(codes[:, :-1]), condition, num_frames)

  def predict(
      self, earlier: Float[Array, "B before D"], condition: Condition, num_frames: int
  ) -> Float[Array, "B S codes"]:
    """Return the logits of every code, given the embedded codes but the last."""
    prefix = self.backbone.embed_text(condition)
    tokens = jnp.concatenate([self.first(len(earlier)), earlier], axis=1) + self.backbone.positions(num_frames)
    # With one token a "frame", frames in causal order are tokens in causal order.
    return self.logits(self.backbone(prefix, tokens, BlockCausal(prefix.shape[1], 1)))

  def first(self, batch: int) -> Float[Array, "B 1 D"]:
    """Return the input before the first code."""
    begin = gather_weight(self.begin[...], TOKEN_AXES).astype(self.cfg.dtype)
    return jnp.broadcast_to(begin, (batch, 1, self.cfg.width))

  def embed(self, codes: Int[Array, "..."]) -> Float[Array, "... D"]:
    return gather_weight(self.code_embed[...], CODE_AXES)[codes].astype(self.cfg.dtype)

  def logits(self, x: Float[Array, "... D"]) -> Float[Array, "... codes"]:
    return self.head(x).astype(jnp.float32)


class LayerCache(NamedTuple):
  """Keys and values of one layer, in the order in which a product of one query and many keys reads them."""

  k: Float[Array, "B H S K"]
  v: Float[Array, "B H S K"]


def extend(
    block: Block, x: Float[Array, "B Q D"], cache: LayerCache, start: Int[Array, ""] | int
) -> tuple[Float[Array, "B Q D"], LayerCache]:
  """Run a block on one token, or on a prefix and the first one, given the cache of those before `start`.

  With a cache a layer, each is written in place. `Block.extend` is for whole frames: on one token it is far slower,
  since keys and values of all layers are copied, and attention on a CPU goes from head to head.
  """
  q, *new = block.attn.project(block.pre_attention(x), None)
  cache = LayerCache(*(
      jax.lax.dynamic_update_slice_in_dim(old, jnp.swapaxes(array, 1, 2), start, axis=2)
      for old, array in zip(cache, new, strict=True)))
  k, v = (jnp.swapaxes(array, 1, 2) for array in cache)
  return block.post_attention(x, block.attn.proj(dense(q, k, v, ValidKeys(start + x.shape[1])))), cache


@functools.partial(jax.jit, static_argnames=("num_frames",))
def sample(
    model: Model, condition: Condition, keys: Key[Array, "B"], scale: float, num_frames: int
) -> Int[Array, "B S"]:
  """Draw the codes of clips, each from its own key, guided by `scale`."""
  raster, batch = model.merge(), len(keys)
  prefix, positions = raster.backbone.embed_text(with_null(condition)), raster.backbone.positions(num_frames)
  num_tokens = len(positions)
  blocks, num_heads = unstack(raster.backbone.blocks), raster.cfg.num_heads
  shape = (2 * batch, num_heads, prefix.shape[1] + num_tokens, raster.cfg.width // num_heads)
  caches = [LayerCache(jnp.zeros(shape, raster.cfg.dtype), jnp.zeros(shape, raster.cfg.dtype)) for _ in blocks]

  def run(x, caches, place):
    """Run the next tokens; draw the code at `place`, which the last one predicts."""
    start, written = prefix.shape[1] + place + 1 - x.shape[1], []
    for block, cache in zip(blocks, caches, strict=True):
      x, cache = extend(block, x, cache, start)
      written.append(cache)
    logits = raster.logits(raster.backbone.norm(x[:, -1])).reshape(2, batch, 1, -1)
    logits = Strength(scale).combine(logits, jnp.ones(1, bool))[:, 0]
    draw = lambda key, row: jax.random.categorical(jax.random.fold_in(key, place), row)
    return jax.vmap(draw)(keys, logits), written

  def step(carry, place):
    code, caches = carry
    code, caches = run(raster.embed(jnp.tile(code, 2))[:, None] + positions[place], caches, place)
    return (code, caches), code

  begin = jnp.concatenate([prefix, raster.first(2 * batch) + positions[0]], axis=1)
  first, caches = run(begin, caches, 0)
  _, later = jax.lax.scan(step, (first, caches), jnp.arange(1, num_tokens))
  return jnp.concatenate([first[None], later]).T


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized(Baseline):
  """The task of the trainer."""

  cfg: ModelConfig
  codebook: Float[np.ndarray, "codes P"]

  def init(self, rngs: nnx.Rngs) -> RasterModel:
    return RasterModel(self.cfg, self.codebook, rngs=rngs)

  def loss(
      self, model: RasterModel, batch: Batch, keys: Key[Array, "B"], traced: None = None, static: None = None
  ) -> tuple[Float[Array, ""], Metrics]:
    """Return the cross-entropy of a batch's codes, which draws nothing."""
    del keys, traced, static
    codes = nearest(tokens_of(batch.latents, self.cfg), model.codebook[...])
    likely = jax.nn.log_softmax(model(codes, batch.condition, batch.latents.shape[1]))
    loss = -jnp.take_along_axis(likely, codes[..., None], axis=-1).mean()
    return loss, {"loss": loss}

  def forward_flops(self, num_frames: int) -> float:
    """Return the operations of one sample's forward pass in training."""
    prefix, tokens = self.cfg.text_len, num_frames * self.cfg.num_video_tokens
    pairs = prefix * (prefix + 1) + tokens * prefix + tokens * (tokens + 1) / 2
    # The head; the distances to all codes have no gradients, which is a third of what three passes count.
    codes = len(self.codebook) * tokens * (2 * self.cfg.width + 2 * 4 * self.cfg.patch_dim / 3)
    return forward_flops(self.cfg, prefix + tokens, pairs) + codes

  def generate(
      self, model: Model, condition: Condition, keys: Key[Array, "B"], num_frames: int, guidance_scale: float
  ) -> Float[Array, "B T h w C"]:
    """Generate latents of clips."""
    codes = sample(model, condition, keys, guidance_scale, num_frames)
    return clips_of(jnp.asarray(self.codebook)[codes], self.cfg)
