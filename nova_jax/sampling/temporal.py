"""Frame after frame: what the temporal encoder remembers of a clip, and the condition it makes for the next frame.

  [prefix, begin, frame 0 … frame t−1] → c_t, relative to c_0 by scaling & shift (paper, section 3.2)

The cache has room for a window of W frames, the one to come included. A longer clip slides it: the prefix and the begin
frame stay, the last W − 1 frames are read anew at places 1 … W − 1, and c_t is what a clip of W frames that began with
them would have at its end. Time positions, absolute or rotary, thus never leave the trained range.
Invariants: memory and the time for a frame don't grow with the clip; up to W frames nothing is read twice.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nova_jax.config import ModelConfig
from nova_jax.models.layers import cast_weights
from nova_jax.models.nova import NOVA, Condition
from nova_jax.models.transformer import Cache


class Model(NamedTuple):
  """A transformer split once, for many calls, into its static part and its arrays."""

  graph: nnx.GraphDef
  state: nnx.State

  @classmethod
  def of(cls, module: NOVA) -> "Model":
    # Each set reads all weights: they are stored as they are used.
    return cls(*cast_weights(module, module.cfg.dtype))

  def merge(self) -> NOVA:
    return nnx.merge(self.graph, self.state)


class Memory(NamedTuple):
  """What is remembered of a clip; every method returns a new one, and the old one must not be used again."""

  model: Model
  num_passes: int
  window: int  # W.
  start: int  # Tokens of the prefix and the begin frame.
  positions: Float[Array, "W M D"] | None
  anchor: Float[Array, "rows M D"]  # c_0.
  cond: Float[Array, "rows M D"]  # The condition after the frames in the cache.
  cache: Cache
  frames: tuple[Float[Array, "B h w C"], ...] = ()  # In the cache, the oldest first.
  waiting: tuple[Float[Array, "B h w C"], ...] = ()  # To be read next.
  slid: bool = False  # Whether the cache holds frames that have left the window.

  @classmethod
  def of(
      cls, model: Model, cfg: ModelConfig, condition: Condition, null: Condition, *, num_passes: int, window: int
  ) -> "Memory":
    """Read the prefix and the begin frame; arguments as of `generate`."""
    prefix, positions = prepare(model, condition, null, num_passes=num_passes, num_frames=window)
    start = prefix.shape[1] + cfg.num_video_tokens
    cache = Cache.empty(
        cfg, cfg.temporal_depth, prefix.shape[0], prefix.shape[1] + window * cfg.num_video_tokens)
    anchor, cache = begin_video(model, prefix, positions, cache, num_passes=num_passes)
    return cls(model, num_passes, window, start, positions, anchor, anchor, cache)

  def add(self, frame: Float[Array, "B h w C"]) -> "Memory":
    """Take a finished frame."""
    known = (*self.frames, *self.waiting, frame)
    if len(known) < self.window:
      return self._replace(waiting=(*self.waiting, frame))
    return self._replace(frames=(), waiting=known[len(known) - self.window + 1:], slid=True)

  def follow(
      self, condition: Condition, null: Condition, cfg: ModelConfig, context: int | None = None
  ) -> "Memory":
    """Let another prompt take over: the begin frame and the last `context` frames are read anew behind its prefix."""
    fresh = Memory.of(self.model, cfg, condition, null, num_passes=self.num_passes, window=self.window)
    known = (*self.frames, *self.waiting)
    return fresh._replace(waiting=known[len(known) - min(len(known), context or len(known)):])

  def read(self) -> tuple[Float[Array, "rows M D"], "Memory"]:
    """Return the condition of the next frame."""
    cond, cache = self.cond, self.cache
    if self.slid:
      cond, cache = self.anchor, cache._replace(length=jnp.asarray(self.start, jnp.int32))
    for t, frame in enumerate(self.waiting, len(self.frames) + 1):
      cond, cache = continue_video(
          self.model, frame, self.anchor, self.positions, cache, t, num_passes=self.num_passes)
    return cond, self._replace(cond=cond, cache=cache, frames=(*self.frames, *self.waiting), waiting=(), slid=False)


@functools.partial(jax.jit, static_argnames=("num_passes", "num_frames"))
def prepare(model: Model, condition: Condition, null: Condition, *, num_passes: int, num_frames: int):
  """Return the passes' prefixes [passes·B, P, D] and all frames' absolute positions [T, M, D] (None if rotary)."""
  nova = model.merge()
  conditions = [nova.embed_condition(c) for c in [condition, null, null][:num_passes]]
  positions = None if nova.video_pos_embed is None else nova.video_pos_embed(num_frames)
  return jnp.concatenate(conditions), positions


def _passes(nova: NOVA, frame: Float[Array, "B M D"], positions: Float[Array, "M D"] | None, num_passes: int):
  """Repeat a frame's embedding for all passes.

  With image guidance the second pass sees the bare begin vector instead.
  """
  frame = frame if positions is None else frame + positions
  frames = [frame] * num_passes
  if num_passes == 3:
    frames[1] = nova.begin(frame.shape[0])
  return jnp.concatenate(frames)


@functools.partial(jax.jit, static_argnames=("num_passes",), donate_argnames=("cache",))
def begin_video(model: Model, prefix: Float[Array, "B P D"], positions, cache: Cache, *, num_passes: int):
  """Run the temporal encoder on the prefix and the begin frame; return c_0 [passes·B, M, D] and the cache."""
  nova = model.merge()
  begin = nova.begin(prefix.shape[0] // num_passes)
  frame = _passes(nova, begin, None if positions is None else positions[0], num_passes)
  return nova.video_encoder.extend(frame, prefix, cache, 0)


@functools.partial(jax.jit, static_argnames=("num_passes",), donate_argnames=("cache",))
def continue_video(
    model: Model, last: Float[Array, "B h w C"], anchor: Float[Array, "rows M D"], positions, cache: Cache, t: int,
    *, num_passes: int,
):
  """Extend the temporal encoder by the frame before `t`; return the modulated c_t [passes·B, M, D] and the cache."""
  nova = model.merge()
  frame = nova.embed_frames(last[:, None])[:, 0]
  frame = _passes(nova, frame, None if positions is None else positions[t], num_passes)
  cond, cache = nova.video_encoder.extend(frame, None, cache, t)
  return nova.video_encoder.scale_and_shift(anchor, cond), cache
