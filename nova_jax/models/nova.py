"""NOVA generates frames in causal order, each frame in sets of tokens, and each token by a small diffusion network.

"Autoregressive Video Generation without Vector Quantization" (ICLR 2025, arXiv 2412.14169). The parts in the paper's
order:

  temporal encoder (TAM)   [text, motion, begin, frame 0 … T−2] → c_0 … c_{T−1}, block-causal over frames
  scaling & shift          c_t ← c_0 · (1 + s(c_t)) + b(c_t) for t > 0
  spatial encoder (MAM)    c_t and the visible tokens of frame t → z, bidirectional within the frame
  denoiser                 z, noised token, time → diffusion target, for each token separately

Parameters keep their published names. Invariant: modules hold parameters only; caches, masks and keys are arguments.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int

from nova_jax.config import DEFAULT_FPS, DEFAULT_MOTION_FLOW, ModelConfig
from nova_jax.models import embeddings as emb
from nova_jax.models.attention.masks import BlockCausal, ValidKeys
from nova_jax.models.condition import Condition, required
from nova_jax.models.denoiser import Denoiser, Modulation
from nova_jax.models.layers import LayerNorm, Linear, parameter
from nova_jax.models.tokens import gather_tokens, scatter_tokens
from nova_jax.models.transformer import Cache, extend_blocks, make_blocks, run_blocks, run_blocks_at
from nova_jax.parallel.sharding import gather_weight
from nova_jax.utils.arrays import AnyArray

TOKEN_AXES = (None, "embed")  # Axes of the learned vectors.


class TemporalEncoder(nnx.Module):
  """Block-causal encoder of [condition, begin, frame 0 … T−2] (`video_encoder`); output t predicts frame t."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.patch_embed = emb.PatchEmbed(4 * cfg.patch_dim, cfg.width, rngs=rngs)
    self.blocks = make_blocks(cfg, cfg.temporal_depth, rngs)
    self.norm = LayerNorm(cfg.width)
    self.mixer = make_mixer(cfg, rngs) if cfg.mixer_rank is not None else None

  def __call__(self, frames: Float[Array, "B T M D"], cond: Float[Array, "B P D"]) -> Float[Array, "B T M D"]:
    """Encode whole clips, for training."""
    num_frames, prefix = frames.shape[1], cond.shape[1]
    x = jnp.concatenate([cond, frames.reshape(frames.shape[0], -1, frames.shape[-1])], axis=1)
    mask = BlockCausal(prefix, frames.shape[2]) if num_frames > 1 else None
    x = run_blocks(self.blocks, x, self._rotation(0, num_frames, prefix), mask, self.cfg.remat)
    return self.norm(x[:, prefix:]).reshape(frames.shape)

  def extend(
      self, frame: Float[Array, "B M D"], cond: Float[Array, "B P D"] | None, cache: Cache, t: Int[Array, ""] | int
  ) -> tuple[Float[Array, "B M D"], Cache]:
    """Encode input `t`, given the cache of all earlier ones; the condition is passed with input 0 only."""
    prefix = 0 if cond is None else cond.shape[1]
    x = frame if cond is None else jnp.concatenate([cond, frame], axis=1)
    x, cache = extend_blocks(self.blocks, x, cache, self._rotation(t, 1, prefix))
    return self.norm(x[:, prefix:]), cache

  def scale_and_shift(
      self, first: Float[Array, "B ... M D"], later: Float[Array, "B ... M D"],
  ) -> Float[Array, "B ... M D"]:
    """Scale and shift the first output by each later one; without the layer, return the later ones unchanged."""
    return later if self.mixer is None else self.mixer(first, later)[0]

  def _rotation(self, start, num_frames: int, prefix: int) -> emb.Rotation | None:
    if not self.cfg.rotary:
      return None
    positions = jnp.asarray(emb.rotary_positions(num_frames, self.cfg.video_grid)) + jnp.array([1, 0, 0]) * start
    positions = jnp.pad(positions, ((prefix, 0), (0, 0)))
    return emb.rotation(positions, self.cfg.width // self.cfg.num_heads)


def make_mixer(cfg: ModelConfig, rngs: nnx.Rngs) -> Modulation:
  """Create the scaling & shift layer; a negative rank makes it full rank."""
  return Modulation(cfg.width, 2, rank=max(cfg.mixer_rank or 0, 0) or None, eps=None, rngs=rngs)


class SpatialEncoder(nnx.Module):
  """Masked autoencoder over one frame (`image_encoder`), conditioned on the temporal encoder's output for the frame."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.patch_embed = emb.PatchEmbed(cfg.patch_dim, cfg.width, rngs=rngs)
    self.encoder_blocks = make_blocks(cfg, cfg.spatial_depth // 2, rngs)
    self.decoder_blocks = make_blocks(cfg, cfg.spatial_depth - cfg.spatial_depth // 2, rngs)
    self.norm = LayerNorm(cfg.width)

  def __call__(
      self, tokens: Float[Array, "B N D"], visible_ids: Int[Array, "B V"], num_visible: Int[ArrayLike, ""],
      cond: Float[Array, "B M D"], wanted: Int[Array, "B W"] | None = None,
  ) -> Float[Array, "B W D"]:
    """Encode frames of which some tokens are visible.

    Args:
      tokens: embeddings of visible tokens, the mask token for the others.
      visible_ids: indices of the visible tokens, padded to V; those after the first `num_visible` are ignored.
      num_visible: number of valid `visible_ids`.
      cond: temporal encoder's output for these frames.
      wanted: indices of the tokens to return; None for all.
    """
    num_tokens = tokens.shape[1]
    if not self.cfg.rotary:
      tokens = tokens + emb.space_embedding(self.cfg.width, self.cfg.image_grid).astype(tokens.dtype)
    num_cond = cond.shape[1]
    # The first half sees only visible tokens. Padding comes last, where the mask of valid keys hides it.
    x = jnp.concatenate([cond, gather_tokens(tokens, visible_ids)], axis=1)
    rotation = self.rotation(visible_ids, num_cond)
    x = run_blocks(self.encoder_blocks, x, rotation, ValidKeys(num_cond + num_visible), self.cfg.remat)
    # The second half sees all tokens. Padding gets an index out of range, for which the write is dropped.
    cond, visible = x[:, :num_cond], x[:, num_cond:]
    ids = jnp.where(jnp.arange(visible_ids.shape[1]) < num_visible, visible_ids, num_tokens)
    x = jnp.concatenate([cond, scatter_tokens(tokens, ids, visible)], axis=1)
    rotation = self.rotation(jnp.arange(num_tokens), num_cond)
    if wanted is not None:
      return self.norm(run_blocks_at(self.decoder_blocks, x, rotation, self.cfg.remat, num_cond + wanted))
    x = run_blocks(self.decoder_blocks, x, rotation, None, self.cfg.remat)
    return self.norm(x[:, num_cond:])

  def rotation(self, ids: Int[Array, "... V"], num_cond: int) -> emb.Rotation | None:
    """Return the rotary rotation of `num_cond` condition tokens and of the tokens at `ids`; None without rotary."""
    if not self.cfg.rotary:
      return None
    positions = jnp.asarray(emb.rotary_positions(1, self.cfg.image_grid))[ids]
    positions = jnp.pad(positions, [(0, 0)] * (positions.ndim - 2) + [(num_cond, 0), (0, 0)])
    return emb.rotation(positions, self.cfg.width // self.cfg.num_heads)


class MaskEmbed(nnx.Module):
  """The learned begin-of-video vector and the learned mask token."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.bos_token = parameter(0.02 * rngs.params.normal((1, cfg.width)), TOKEN_AXES)
    self.mask_token = parameter(0.02 * rngs.params.normal((1, cfg.width)), TOKEN_AXES)


class Canvas(nnx.Module):
  """A blurred prediction of a frame from its condition, as in CanvasMAR (arXiv 2510.13669), for its mask tokens.

  Trained by squared error, it is the mean of the frames that may come.
  """

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.head = Linear((cfg.width,), (4 * cfg.patch_dim,), ("embed", "patch"), zero=True, rngs=rngs)
    self.patch_embed = emb.PatchEmbed(cfg.patch_dim, cfg.width, rngs=rngs)

  def predict(self, cond: Float[Array, "B M D"]) -> Float[Array, "B N P"]:
    """Return the patch values of the frame of a condition."""
    frame = emb.unpatchify(self.head(cond).astype(jnp.float32), self.cfg.video_grid, 2 * self.cfg.patch_size)
    return emb.patchify(frame, self.cfg.patch_size)


class NOVA(nnx.Module):
  """The whole model. `diffusion/loss.py` trains it, and `sampling/sampler.py` generates with it."""

  def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    self.text_embed = emb.TextEmbed(cfg, rngs=rngs) if cfg.text_dim else None
    self.label_embed = emb.LabelEmbed(cfg, rngs=rngs) if cfg.num_classes else None
    self.motion_embed = emb.MotionEmbed(cfg, rngs=rngs) if cfg.has_motion else None
    self.video_pos_embed = None if cfg.rotary else emb.VideoPosEmbed(cfg, rngs=rngs)
    self.noise_embed = emb.NoiseEmbed(cfg, rngs=rngs) if cfg.told_noise else None
    self.mask_embed = MaskEmbed(cfg, rngs=rngs)
    self.canvas = Canvas(cfg, rngs=rngs) if cfg.canvas else None
    self.video_encoder = TemporalEncoder(cfg, rngs=rngs)
    self.image_encoder = SpatialEncoder(cfg, rngs=rngs)
    self.image_decoder = Denoiser(cfg, rngs=rngs)

  def embed_condition(self, condition: Condition | Mapping[str, Array]) -> Float[Array, "B P D"]:
    """Return the condition tokens of a condition or of a training batch: text or label, then motion."""
    condition = Condition.from_batch(condition)
    if self.text_embed is not None:
      embeds, lengths = required(condition.text_embeds, "text_embeds"), required(condition.text_lengths, "text_lengths")
      tokens = [self.text_embed(embeds, lengths, self.cfg.dtype)]
    else:
      assert self.label_embed is not None  # `ModelConfig` has texts or classes.
      tokens = [self.label_embed(required(condition.labels, "labels"), self.cfg.dtype)]
    if self.motion_embed is not None:
      batch = tokens[0].shape[:1]
      flow = jnp.full(batch, DEFAULT_MOTION_FLOW) if condition.motion_flow is None else condition.motion_flow
      fps = jnp.full(batch, DEFAULT_FPS) if condition.fps is None else condition.fps
      tokens.append(self.motion_embed(flow, fps, self.cfg.dtype))
    return jnp.concatenate(tokens, axis=1)

  def embed_frames(
      self, latents: Float[AnyArray, "B T h w C"], noise_level: Float[ArrayLike, "..."] = 0.0,
  ) -> Float[Array, "B T M D"]:
    """Embed latent frames for the temporal encoder, without positions; a model without history ignores them.

    Args:
      latents: frames.
      noise_level: standard deviation of the noise on them, which is for models that are told it.
    """
    if not self.cfg.history:
      return jnp.repeat(self.begin(latents.shape[0])[:, None], latents.shape[1], axis=1)
    frames = self.video_encoder.patch_embed(emb.patchify(jnp.asarray(latents, self.cfg.dtype), 2 * self.cfg.patch_size))
    if self.noise_embed is None:
      return frames
    level = jnp.broadcast_to(jnp.asarray(noise_level, jnp.float32), latents.shape[:1])
    return frames + self.noise_embed(level, self.cfg.dtype)[:, None, None]

  def begin(self, batch: int) -> Float[Array, "B M D"]:
    """Return the first input of the temporal encoder, in which all tokens are the begin-of-video vector."""
    bos = gather_weight(self.mask_embed.bos_token[...], TOKEN_AXES).astype(self.cfg.dtype)
    return jnp.broadcast_to(bos, (batch, self.cfg.num_video_tokens, self.cfg.width))

  def temporal(
      self, latents: Float[AnyArray, "B T h w C"], cond: Float[Array, "B P D"],
      noise_level: Float[ArrayLike, "..."] = 0.0,
  ) -> Float[Array, "B T M D"]:
    """Run the temporal encoder over a clip; output t depends on frames before t only. Scaling & shift comes later.

    Args:
      latents: frames.
      cond: condition tokens.
      noise_level: standard deviation of the noise on the frames, which is for models that are told it.
    """
    begin = self.begin(latents.shape[0])[:, None]
    frames = jnp.concatenate([begin, self.embed_frames(latents[:, :-1], noise_level)], axis=1)
    if self.video_pos_embed is not None:
      frames = frames + self.video_pos_embed(frames.shape[1])
    return self.video_encoder(frames, cond)

  def anchor(self, outputs: Float[Array, "B T M D"]) -> Float[Array, "B T M D"]:
    """Apply scaling & shift: output 0 is returned unchanged and anchors the others."""
    first, later = outputs[:, :1], outputs[:, 1:]
    return jnp.concatenate([first, self.video_encoder.scale_and_shift(first, later)], axis=1)

  def mask_tokens(
      self, patches: Float[Array, "B N P"], mask: Float[Array, "B N 1"], canvas: Float[Array, "B N P"] | None = None,
  ) -> Float[Array, "B N D"]:
    """Embed the tokens of images, and replace those where `mask` is 1 by the mask token and their part of a canvas."""
    mask = mask.astype(self.cfg.dtype)
    tokens = self.image_encoder.patch_embed(patches.astype(self.cfg.dtype))
    token = gather_weight(self.mask_embed.mask_token[...], TOKEN_AXES).astype(self.cfg.dtype)
    if canvas is not None:
      assert self.canvas is not None  # Which predicted it.
      token = token + self.canvas.patch_embed(canvas.astype(self.cfg.dtype))
    return tokens * (1 - mask) + token * mask

  def predict_canvas(self, cond: Float[Array, "B M D"]) -> Float[Array, "B N P"] | None:
    """Return the canvas of frames, given their conditions; None for a model without one."""
    return None if self.canvas is None else self.canvas.predict(cond)


def count_parameters(cfg: ModelConfig) -> int:
  """Return the number of trainable parameters, without creating them."""
  state = nnx.eval_shape(lambda: nnx.state(NOVA(cfg, rngs=nnx.Rngs(0)), nnx.Param))
  return sum(int(np.prod(leaf.shape)) for _, leaf in nnx.to_flat_state(state))
