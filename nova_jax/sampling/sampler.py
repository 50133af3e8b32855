"""The sampler: frame after frame, set after set, diffusion step after diffusion step.

For each frame the temporal encoder extends its KV cache by one frame; then for each set the spatial encoder reads the
tokens known so far, and the denoiser turns noise into the set's tokens. All images and videos come from here.

Invariants: a sample depends on its own key only, not on its neighbours in the batch; shapes are static, so that a clip
costs two compilations of the temporal step and one for each group of sets (`sets.py`).
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from nova_jax.config import ModelConfig
from nova_jax.diffusion import Scheduler
from nova_jax.diffusion.loss import mask_of
from nova_jax.models.embeddings import patchify, unpatchify
from nova_jax.models.layers import cast_weights, unstack
from nova_jax.models.nova import NOVA, Condition
from nova_jax.models.tokens import put, take
from nova_jax.models.transformer import Cache
from nova_jax.sampling.guidance import Guidance, Strength
from nova_jax.sampling.sets import TokenSet, draw_order, token_sets
from nova_jax.sharding import mesh_of, on, whole


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


class Noise(NamedTuple):
  """All noise of a generation, for the F frames that are generated and their S non-empty sets.

  `steps` is what a DDPM sampler adds after each of its K steps; None where it adds none.
  """

  start: Float[Array, "F S B h w C"]
  steps: Float[Array, "F S K B h w C"] | None = None


class Plan(NamedTuple):
  """What to generate, apart from condition and randomness."""

  cfg: ModelConfig
  num_frames: int  # T, given ones included.
  sets: tuple[TokenSet, ...]
  table: Any  # The scheduler's steps.
  guidance: Guidance


def make_plan(
    cfg: ModelConfig, scheduler: Scheduler, *, num_frames: int, num_sets: int, num_steps: int, guidance: Guidance,
    flow_shift: float | None = None,
) -> Plan:
  """Check what is asked for, and tabulate it."""
  if num_frames < 1:
    raise ValueError(f"num_frames: expected at least 1, got {num_frames}")
  if not 1 <= num_steps <= scheduler.num_train_timesteps:
    raise ValueError(f"num_diffusion_steps: expected 1 to {scheduler.num_train_timesteps}, got {num_steps}")
  sets = token_sets(cfg.num_image_tokens, num_sets)
  return Plan(cfg, num_frames, sets, scheduler.steps(num_steps, flow_shift), guidance)


def generate(
    model: Model, scheduler: Scheduler, plan: Plan, condition: Condition, null: Condition, *, keys: Key[Array, "B"],
    given: Float[Array, "B G h w C"] | None = None, order: Int[Array, "B N"] | None = None, noise: Noise | None = None,
    on_set: Callable[[int, int], None] | None = None,
) -> Iterator[Float[Array, "B h w C"]]:
  """Yield latent frames as they are finished, given ones first.

  Args:
    model: the transformer.
    scheduler: the diffusion process.
    plan: what to generate.
    condition: text or labels, and motion, of B samples.
    null: the same for the unconditional passes: an empty caption, "no class" or a negative prompt.
    keys: one a sample; all its randomness derives from it.
    given: the first G latent frames, which are kept as they are and condition all later ones.
    order: the order in which tokens are written, to reproduce a generation.
    noise: the noise, to reproduce a generation.
    on_set: called with (frame, set) when a set is finished.
  """
  cfg, guidance, mesh = plan.cfg, plan.guidance, mesh_of(model.state)
  num_given = 0 if given is None else given.shape[1]
  order_keys, noise_keys = fold(keys, 0), fold(keys, 1)
  order = draw_order(order_keys, cfg.num_image_tokens) if order is None else jnp.asarray(order)
  with on(mesh):
    prefix, positions = prepare(model, condition, null, num_passes=guidance.num_passes, num_frames=plan.num_frames)
  cache = Cache.empty(
      cfg, cfg.temporal_depth, prefix.shape[0], prefix.shape[1] + plan.num_frames * cfg.num_video_tokens)
  frame = anchor = None
  for t in range(plan.num_frames):
    with on(mesh):
      if t == 0:
        cond, cache = begin_video(model, prefix, positions, cache, num_passes=guidance.num_passes)
        anchor = cond
      else:
        cond, cache = continue_video(model, frame, anchor, positions, cache, t, num_passes=guidance.num_passes)
      if t < num_given:
        frame = jnp.asarray(given[:, t])
      else:
        frame_noise = None if noise is None else jax.tree.map(lambda x: x[t - num_given], noise)
        frame = _generate_frame(
            model, scheduler, plan, cond, order, fold(noise_keys, t), frame_noise,
            functools.partial(on_set, t) if on_set else None)
        frame = whole(frame, mesh)
    yield frame


def _generate_frame(model, scheduler, plan, cond, order, keys, noise, on_set):
  """Return one frame [B, h, w, C], its sets written one after another."""
  cfg, num_steps = plan.cfg, len(plan.table.time)
  num_guided = int(np.sum(plan.table.time >= plan.guidance.truncation)) if plan.guidance.num_passes > 1 else num_steps
  x = jnp.zeros((order.shape[0], cfg.num_image_tokens, cfg.patch_dim), jnp.float32)
  for i, token_set in enumerate(plan.sets):
    if noise is None:
      start_noise, step_noise = draw_noise(fold(keys, i), cfg, num_steps if scheduler.adds_noise else 0)
    else:
      start_noise, step_noise = jax.tree.map(lambda x: patchify(jnp.asarray(x[i]), cfg.patch_size), noise)
    before = x
    x = write_set(
        model, before, cond, order, token_set.start, token_set.size, start_noise, step_noise, plan.table,
        plan.guidance.strength(i, len(plan.sets)), scheduler=scheduler, num_passes=plan.guidance.num_passes,
        num_guided=num_guided, max_visible=token_set.max_visible, max_size=token_set.max_size)
    if on_set is not None and i > 0:
      jax.block_until_ready(before)  # The set before: the device has its next one already.
      on_set(i - 1)
  if on_set is not None:
    jax.block_until_ready(x)
    on_set(len(plan.sets) - 1)
  return unpatchify(x, cfg.image_grid, cfg.patch_size)


def fold(keys: Key[Array, "B"], data: int) -> Key[Array, "B"]:
  """Derive keys for one use from keys of samples."""
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


@functools.partial(jax.jit, static_argnames=("cfg", "num_steps"))
def draw_noise(
    keys: Key[Array, "B"], cfg: ModelConfig, num_steps: int,
) -> tuple[Float[Array, "B N P"], Float[Array, "K B N P"] | None]:
  """Draw a whole frame's starting noise, and the noise of `num_steps` diffusion steps if there are any."""
  shape = (cfg.num_image_tokens, cfg.patch_dim)
  start = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), shape))(keys)
  if not num_steps:
    return start, None
  return start, jax.vmap(
      lambda key: jax.random.normal(jax.random.fold_in(key, 1), (num_steps, *shape)), out_axes=1)(keys)


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
    model: Model, last: Float[Array, "B h w C"], anchor: Float[Array, "passes*B M D"], positions, cache: Cache, t: int,
    *, num_passes: int,
):
  """Extend the temporal encoder by the frame before `t`; return the modulated c_t [passes·B, M, D] and the cache."""
  nova = model.merge()
  frame = nova.embed_frames(last[:, None])[:, 0]
  frame = _passes(nova, frame, None if positions is None else positions[t], num_passes)
  cond, cache = nova.video_encoder.extend(frame, None, cache, t)
  return nova.video_encoder.scale_and_shift(anchor, cond), cache


@functools.partial(jax.jit, static_argnames=("scheduler", "num_passes", "num_guided", "max_visible", "max_size"))
def write_set(
    model: Model, x: Float[Array, "B N P"], cond: Float[Array, "passes*B M D"], order: Int[Array, "B N"], start: int,
    size: int, start_noise: Float[Array, "B N P"], step_noise: Float[Array, "K B N P"] | None, table: Any,
    strength: Strength, *, scheduler: Scheduler, num_passes: int, num_guided: int, max_visible: int, max_size: int,
) -> Float[Array, "B N P"]:
  """Write the tokens order[start : start + size] of a frame.

  Args:
    model: the transformer.
    x: patch values of the frame; those of order[:start] are known.
    cond: the temporal encoder's output for this frame.
    order: the order in which tokens are written.
    start, size: the set.
    start_noise, step_noise: noise for the whole frame.
    table: the scheduler's steps.
    strength: how strongly to guide.
    scheduler: the diffusion process.
    num_passes: of guidance; the last K − num_guided steps run the conditional one alone.
    num_guided: diffusion steps with guidance.
    max_visible, max_size: padded sizes of what is known and of the set.
  """
  nova = model.merge()
  batch, num_tokens, _ = x.shape
  valid = jnp.arange(max_size) < size
  # Spatial encoder: what is known so far → the condition of each token of the set.
  visible = order[:, :max_visible]
  tokens = nova.mask_tokens(x, mask_of(visible, start, num_tokens)[..., None])
  ids = jax.lax.dynamic_slice_in_dim(jnp.pad(order, ((0, 0), (0, max_size))), start, max_size, axis=1)
  repeat = lambda x: jnp.tile(x, (num_passes, *[1] * (x.ndim - 1)))
  z = nova.image_encoder(repeat(tokens), repeat(visible), start, cond, repeat(ids))
  decoder = nova.image_decoder
  z = decoder.condition(z.reshape(num_passes, batch, max_size, -1))
  times, blocks = decoder.embed_time(table.time, z.dtype), unstack(decoder.blocks)

  def denoise(passes):
    def step(sample, row):
      table, time, noise = row
      noise = None if noise is None else take(noise, ids)
      predictions = decoder.predict(sample[None], z[:passes] + time, (None, "batch", None), blocks)
      prediction = strength.combine(predictions, valid) if passes > 1 else predictions[0]
      return scheduler.step(table, sample, prediction, noise, valid), None

    return step

  sample = take(start_noise, ids)
  for passes, part in ((num_passes, slice(num_guided)), (1, slice(num_guided, None))):
    steps = jax.tree.map(lambda column: column[part], (table, times, step_noise))
    if len(steps[0].time):
      sample, _ = jax.lax.scan(denoise(passes), sample, steps)
  return put(x, jnp.where(valid, ids, num_tokens), sample)
