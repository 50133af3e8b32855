"""Frame after frame: the context that the temporal encoder keeps of a clip, and the condition of the next frame.

  [prefix, begin, frame 0 … frame t−1] → c_t, relative to c_0 by scaling & shift (paper, section 3.2)

The cache has room for a window of W frames, the one to come included. A longer clip slides it: the prefix and the begin
frame stay, the last W − 1 frames are read anew at places 1 … W − 1, and c_t is what a clip of W frames that began with
them would have at its end. Time positions, absolute or rotary, thus never leave the trained range. The first S frames
may stay as sinks (arXiv 2309.17453), which leaves W − 1 − S places to the last ones.
Invariants: the context and the time for a frame don't grow with the clip; up to W frames nothing is read twice.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from nova_jax.config import ModelConfig
from nova_jax.models.condition import Condition
from nova_jax.models.layers import cast_weights
from nova_jax.models.nova import NOVA
from nova_jax.models.transformer import Cache
from nova_jax.sampling.inputs import Conditions
from nova_jax.utils.arrays import AnyArray


class Model(NamedTuple):
  """A transformer split once, for many calls, into its static part and its arrays."""

  graph: nnx.GraphDef
  state: nnx.State

  @classmethod
  def from_module(cls, module: NOVA) -> "Model":
    """Split a transformer; its weights are stored in the precision of its activations."""
    # Each set reads all weights: they are stored as they are used.
    return cls(*cast_weights(module, module.cfg.dtype))

  def merge(self) -> NOVA:
    return nnx.merge(self.graph, self.state)


class FrameContext(NamedTuple):
  """The frames of a clip as the temporal encoder sees them, for the frames to come.

  Every method returns a new context; the old one must not be used again, since its cache is donated.

  Attributes:
    model: transformer.
    num_passes: passes of guidance.
    window: frames W that the encoder sees at most, the one to come included.
    num_sinks: first frames S that stay in the window when it slides.
    prefix_length: tokens of the prefix and the begin frame.
    positions: absolute positions of the frames; None if they are rotary.
    anchor: condition of the first frame, c_0.
    cond: condition after the frames in the cache.
    cache: keys and values of the prefix and the frames.
    frames: frames in the cache, the oldest first.
    waiting: frames to be read next.
    noise_level: standard deviation of the noise on the frames, which models with `told_noise` are told.
    slid: whether the cache holds frames that have left the window, all those after `frames`.
  """

  model: Model
  num_passes: int
  window: int
  num_sinks: int
  prefix_length: int
  positions: Float[Array, "W M D"] | None
  anchor: Float[Array, "rows M D"]
  cond: Float[Array, "rows M D"]
  cache: Cache
  frames: tuple[Float[AnyArray, "B h w C"], ...] = ()
  waiting: tuple[Float[AnyArray, "B h w C"], ...] = ()
  noise_level: float = 0.0
  slid: bool = False

  @classmethod
  def start(
      cls, model: Model, cfg: ModelConfig, conditions: Conditions, *, num_passes: int, window: int, num_sinks: int = 0,
      noise_level: float = 0.0,
  ) -> "FrameContext":
    """Read the prefix and the begin frame."""
    prefix, positions = prepare(model, *conditions, num_passes=num_passes, num_frames=window)
    length = prefix.shape[1] + cfg.num_video_tokens
    cache = Cache.empty(
        cfg, cfg.temporal_depth, prefix.shape[0], prefix.shape[1] + window * cfg.num_video_tokens)
    anchor, cache = begin_video(model, prefix, positions, cache, num_passes=num_passes)
    return cls(model, num_passes, window, num_sinks, length, positions, anchor, anchor, cache, noise_level=noise_level)

  def push(self, frame: Float[AnyArray, "B h w C"]) -> "FrameContext":
    """Add a finished frame."""
    known = (*self.frames, *self.waiting, frame)
    if len(known) < self.window:
      return self._replace(waiting=(*self.waiting, frame))
    read = self.frames[: self.num_sinks]
    last = known[len(known) - (self.window - 1 - self.num_sinks):]
    return self._replace(frames=read, waiting=(*known[len(read) : self.num_sinks], *last), slid=True)

  def switch_prompt(self, conditions: Conditions, cfg: ModelConfig, context: int | None = None) -> "FrameContext":
    """Let another prompt take over: the begin frame and the last `context` frames are read anew behind its prefix."""
    fresh = FrameContext.start(
        self.model, cfg, conditions, num_passes=self.num_passes, window=self.window, num_sinks=self.num_sinks,
        noise_level=self.noise_level)
    known = (*self.frames, *self.waiting)
    return fresh._replace(waiting=known[len(known) - min(len(known), context or len(known)):])

  def next_condition(self) -> tuple[Float[Array, "rows M D"], "FrameContext"]:
    """Return the condition of the next frame."""
    cond, cache = self.cond, self.cache
    if self.slid:
      length = self.prefix_length + len(self.frames) * self.anchor.shape[1]
      cond, cache = self.anchor, cache._replace(length=jnp.asarray(length, jnp.int32))
    for t, frame in enumerate(self.waiting, len(self.frames) + 1):
      cond, cache = continue_video(
          self.model, frame, self.anchor, self.positions, cache, t, self.noise_level, num_passes=self.num_passes)
    return cond, self._replace(cond=cond, cache=cache, frames=(*self.frames, *self.waiting), waiting=(), slid=False)


@jax.jit
def add_noise(frame: Float[Array, "B h w C"], keys: Key[Array, "B"], level: float) -> Float[Array, "B h w C"]:
  """Return a frame with Gaussian noise of standard deviation `level`, each sample's drawn from its own key."""
  return frame + level * jax.vmap(lambda key: jax.random.normal(key, frame.shape[1:]))(keys)


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
    noise_level: float = 0.0, *, num_passes: int,
):
  """Extend the temporal encoder by the frame before `t`; return the modulated c_t [passes·B, M, D] and the cache."""
  nova = model.merge()
  frame = nova.embed_frames(last[:, None], noise_level)[:, 0]
  frame = _passes(nova, frame, None if positions is None else positions[t], num_passes)
  cond, cache = nova.video_encoder.extend(frame, None, cache, t)
  return nova.video_encoder.scale_and_shift(anchor, cond), cache
