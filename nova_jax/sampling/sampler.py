"""The sampler: frame after frame, set after set, diffusion step after diffusion step.

For each frame the temporal encoder extends its KV cache by one frame; then for each set the spatial encoder reads the
tokens known so far, and the denoiser turns noise into the set's tokens. All images and videos come from here.

Invariants: a sample depends on its own key only, not on its neighbours in the batch; shapes are static, so that a clip
costs two compilations of the temporal step and one for each group of sets (`set_schedule.py`).
"""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nova_jax.diffusion import Scheduler
from nova_jax.diffusion.loss import visible_to_mask
from nova_jax.models.embeddings import patchify, unpatchify
from nova_jax.models.layers import unstack
from nova_jax.models.tokens import gather_tokens, scatter_tokens
from nova_jax.parallel.sharding import mesh_from_arrays, replicate, use_mesh
from nova_jax.sampling.feature_cache import Features, encode_passes, encode_set, kept_sizes
from nova_jax.sampling.frame_context import FrameContext, Model, add_noise
from nova_jax.sampling.guidance import Strength
from nova_jax.sampling.inputs import Inputs
from nova_jax.sampling.inputs import Noise as Noise  # For callers who know it from here.
from nova_jax.sampling.noise import draw_noise, fold
from nova_jax.sampling.plan import Plan, begin_with_known
from nova_jax.sampling.set_schedule import FEW_TOKENS, TokenSet, make_order, share_shapes, still_first
from nova_jax.utils.finite import LARGEST_LATENT, are_latents

# Rows up to which a product takes as long as reading its weights. What does not depend on noised tokens is then
# computed for all diffusion steps at once.
FEW_ROWS = 256


class Set(NamedTuple):
  """A finished set, as it is told to `on_set`."""

  frame: int
  index: int
  num_sets: int  # Of this frame.
  latents: Callable[[], Float[Array, "B h w C"]]  # The frame so far; zero, the mean, where nothing is written yet.


class SetShape(NamedTuple):
  """The static part of a set: what a program is compiled for.

  Attributes:
    scheduler: diffusion process.
    num_passes: passes of guidance; diffusion steps without guidance run the conditional one alone.
    num_before: diffusion steps before those with guidance.
    num_guided: diffusion steps with guidance.
    max_visible, max_size: padded numbers of known tokens and of tokens of the set.
    max_new: padded number of known tokens that the features lack; None to compute all features anew.
    max_kept: padded number of tokens whose differences between passes are computed, if the features have some; None to
      run the conditional pass alone.
  """

  scheduler: Scheduler
  num_passes: int
  num_before: int
  num_guided: int
  max_visible: int
  max_size: int
  max_new: int | None = None
  max_kept: int | None = None


class Guide(NamedTuple):
  """Another model that guides in place of unconditional passes, and its condition of a frame."""

  model: Model
  cond: Float[Array, "B M D"]


class SetState(NamedTuple):
  """A frame before one of its sets is written, and what writing it takes.

  Attributes:
    x: patch values of the frame; those of order[:start] are known.
    cond: output of the temporal encoder for this frame.
    order: order in which tokens are written.
    start, size: the set, order[start : start + size].
    start_noise, step_noise: noise for the whole frame.
    table: steps of the scheduler.
    strength: strength of guidance.
    num_new: known tokens that the features lack, the last ones.
    guide: model in place of unconditional passes; None runs those.
  """

  x: Float[Array, "B N P"]
  cond: Float[Array, "rows M D"]
  order: Int[Array, "B N"]
  start: Int[Array, ""] | int
  size: Int[Array, ""] | int
  start_noise: Float[Array, "B N P"]
  step_noise: Float[Array, "K B N P"] | None
  table: Any
  strength: Strength
  num_new: Int[Array, ""] | int = 0
  guide: Guide | None = None


def generate(
    model: Model, plan: Plan, inputs: Inputs, on_set: Callable[[Set], None] | None = None, guide: Model | None = None
) -> Iterator[Float[Array, "B h w C"]]:
  """Yield latent frames as they are finished, given ones first.

  Args:
    model: transformer.
    plan: what to generate, and how.
    inputs: conditions, given frames and tokens, and randomness.
    on_set: called when a set is finished.
    guide: model whose conditional pass stands in for the unconditional one (autoguidance, arXiv 2406.02507).

  Raises:
    FloatingPointError: a set that is not finite; the text names the frame and the set.
  """
  cfg, mesh = plan.cfg, mesh_from_arrays(model.state)
  order_keys, noise_keys, history_keys = (fold(inputs.keys, use) for use in range(3))
  orders = [
      make_order(name, order_keys, cfg.image_grid) if inputs.order is None else jnp.asarray(inputs.order)
      for name in plan.orders]
  with use_mesh(mesh):
    models = [model] if guide is None or plan.guidance.num_passes == 1 else [model, guide]
    contexts = [
        FrameContext.start(
            each, each.merge().cfg, inputs.conditions, num_passes=plan.guidance.num_passes // len(models),
            window=plan.window, num_sinks=plan.num_sinks, noise_level=plan.history_noise)
        for each in models]
  recent: list[Float[Array, "B h w C"]] = []  # The two frames before.
  for t in range(plan.num_frames):
    with use_mesh(mesh):
      if t in inputs.changes:
        contexts = [
            context.switch_prompt(inputs.changes[t], each.merge().cfg, plan.later_context)
            for each, context in zip(models, contexts, strict=True)]
      if inputs.prefix_latents is not None and t < inputs.num_given:
        frame = jnp.asarray(inputs.prefix_latents[:, t])
      else:
        (cond, *others), contexts = zip(*(context.next_condition() for context in contexts), strict=True)
        guides = [Guide(each, other) for each, other in zip(models[1:], others, strict=True)]
        order = orders[t > 0]
        if plan.orders[t > 0] == "still_first" and len(recent) == 2 and inputs.order is None:
          order = still_first(order, *(patchify(frame, cfg.patch_size) for frame in recent))
        frame, finite = _generate_frame(model, plan, inputs, t, cond, order, fold(noise_keys, t), on_set, *guides)
        _check_sets(finite, t, plan.num_frames)
        frame = replicate(frame, mesh)
      seen = frame
      if plan.history_noise:
        seen = replicate(add_noise(frame, fold(history_keys, t), plan.history_noise), mesh)
      contexts = [context.push(seen) for context in contexts]
      recent = [*recent[-1:], frame]
    yield frame


def _generate_frame(
    model: Model, plan: Plan, inputs: Inputs, t: int, cond: Float[Array, "rows M D"], order: Int[Array, "B N"],
    keys: Key[Array, "B"], on_set: Callable[[Set], None] | None, guide: Guide | None = None,
) -> tuple[Float[Array, "B h w C"], list[Bool[Array, ""]]]:
  """Return frame `t`, its sets written one after another, and for each set whether it is finite."""
  cfg, guidance = plan.cfg, plan.guidance
  if inputs.known_tokens is None:
    x, sets = jnp.zeros((order.shape[0], cfg.num_image_tokens, cfg.patch_dim), jnp.float32), plan.sets_for(t)
  else:
    x, order, sets = begin_with_known(inputs.known_tokens, order, plan, t)
  own_passes = guidance.num_passes if guide is None else 1
  features = Features.for_frame(cfg, order.shape[0], own_passes, plan.refresh_every, plan.guidance_every)
  sets = share_shapes(sets) if features is None and order.size <= FEW_TOKENS else sets
  if cond.committed and mesh_from_arrays(cond) is None:
    x = jax.device_put(x, cond.sharding)  # Where the first set leaves it: else the second one compiles anew.
  finite = []

  def tell(index, x):
    if on_set is not None:
      jax.block_until_ready(x)  # The device has the next set already.
      on_set(Set(t, index, len(sets), lambda: unpatchify(x, cfg.image_grid, cfg.patch_size)))

  for i, (token_set, shape) in enumerate(zip(sets, set_shapes(plan, sets, features), strict=True)):
    table = plan.table_at(token_set.phase)
    if inputs.noise is None:
      start_noise, step_noise = draw_noise(fold(keys, i), cfg, len(table.time) if plan.adds_noise else 0)
    else:
      start_noise, step_noise = jax.tree.map(
          lambda x, i=i: patchify(jnp.asarray(x[t - inputs.num_given][i]), cfg.patch_size), inputs.noise)
    if (temperature := plan.temperature(t)) != 1:
      start_noise, step_noise = jax.tree.map(
          lambda x, temperature=temperature: temperature * x, (start_noise, step_noise))
    before = x
    state = SetState(
        before, cond, order, token_set.start, token_set.size, start_noise, step_noise, table,
        guidance.strength(i, len(sets)), sets[max(i - 1, 0)].size, guide)
    x, features = denoise_set(model, state, features, shape=shape)
    finite.append(are_latents(x))
    if i > 0:
      tell(i - 1, before)
  if sets:
    tell(len(sets) - 1, x)
  return unpatchify(x, cfg.image_grid, cfg.patch_size), finite


def set_shapes(plan: Plan, sets: Sequence[TokenSet], features: Features | None = None) -> list[SetShape]:
  """Return the static part of each set of a frame, whose features are `features`."""
  keeps = features is not None and features.differences is not None
  max_kept = kept_sizes(sets, plan.guidance_every) if keeps else [None] * len(sets)
  return [
      SetShape(
          plan.scheduler, plan.guidance.num_passes, *plan.guidance.span(plan.table_at(token_set.phase).time),
          token_set.max_visible, token_set.max_size,
          max(sets[max(i - 1, 0)].max_size, token_set.max_size) if i % plan.refresh_every else None, max_kept[i])
      for i, token_set in enumerate(sets)]


def _check_sets(finite: Sequence[Bool[Array, ""]], frame: int, num_frames: int) -> None:
  """Refuse a frame that is not finite; its sets have been on their way all along, none was waited for."""
  for i, good in enumerate(finite):
    if not good:
      raise FloatingPointError(
          f"the latents are not finite (NaN, infinite or above {LARGEST_LATENT:g}), from frame "
          f"{frame + 1}/{num_frames}, set {i + 1}/{len(finite)} on; take a guidance_scale and other settings that the "
          "model was made for")


@functools.partial(jax.jit, donate_argnames=("features",), static_argnames=("shape",))
def denoise_set(
    model: Model, state: SetState, features: Features | None = None, *, shape: SetShape
) -> tuple[Float[Array, "B N P"], Features | None]:
  """Write the tokens of one set of a frame.

  Args:
    model: transformer.
    state: frame so far, and what writing the set takes.
    features: features that earlier sets of the frame left, to be reused; None for exact generation.
    shape: static part of the set.

  Returns:
    The frame with the set's tokens, and the features.
  """
  nova = model.merge()
  x, cond, order, start, size, start_noise, step_noise, table, strength, num_new, guide = state
  scheduler, num_passes, num_before, num_guided, max_visible, max_size, max_new, max_kept = shape
  batch, num_tokens, _ = x.shape
  valid = jnp.arange(max_size) < size
  # Spatial encoder: what is known so far → the condition of each token of the set.
  visible = order[:, :max_visible]
  mask = visible_to_mask(visible, start, num_tokens)[..., None]
  tokens = nova.mask_tokens(x, mask)
  ids = jax.lax.dynamic_slice_in_dim(jnp.pad(order, ((0, 0), (0, max_size))), start, max_size, axis=1)

  def encode(first, last, wanted, features):
    repeat = lambda x: jnp.tile(x, (last - first, *[1] * (x.ndim - 1)))
    rows = cond[first * batch : last * batch]
    canvas = nova.predict_canvas(rows)
    whole = repeat(tokens) if canvas is None else nova.mask_tokens(repeat(x), repeat(mask), canvas)
    if features is None:
      return nova.image_encoder(whole, repeat(visible), start, rows, repeat(wanted)), None
    return encode_set(
        nova.image_encoder, whole, repeat(order), start, rows, repeat(wanted), features, max_visible, num_new,
        max_new)

  if features is None or features.differences is None:
    z, features = encode(0, num_passes if guide is None else 1, ids, features)
  else:
    z, features = encode_passes(encode, order, ids, start, features, max_kept)
  encoded = [(nova.image_decoder, z.reshape(-1, batch, max_size, z.shape[-1]))]
  if guide is not None:
    other = guide.model.merge()
    canvas = other.predict_canvas(guide.cond)
    encoded.append((other.image_decoder, other.image_encoder(
        other.mask_tokens(x, mask, canvas), visible, start, guide.cond, ids)[None]))
  decoders = [(decoder, decoder.condition(z), unstack(decoder.blocks)) for decoder, z in encoded]
  times = [decoder.embed_time(table.time, z.dtype) for decoder, z, _ in decoders]

  few = num_passes * batch * max_size <= FEW_ROWS

  def modulate(passes, times):
    return [
        decoder.modulate(z[:passes] + time[..., None, None, None, :], blocks)
        for (decoder, z, blocks), time in zip(decoders[:passes], times[:passes], strict=True)]

  def denoise(passes):
    def step(carry, row):
      (sample, last), (table, shared, noise) = carry, row
      noise = None if noise is None else gather_tokens(noise, ids)
      modulations = shared if few else modulate(passes, shared)
      predictions = [
          decoder.predict_modulated(sample[None], parts, blocks, (None, "batch", None))
          for (decoder, _, blocks), parts in zip(decoders[:passes], modulations, strict=True)]
      predictions = predictions[0] if len(predictions) == 1 else jnp.concatenate(predictions)
      prediction = strength.combine(predictions, valid) if passes > 1 else predictions[0]
      now = estimate = scheduler.estimate(table, sample, prediction, valid)
      if last is not None:
        estimate = now + table.change * (now - last)
      return (scheduler.move(table, sample, estimate, noise), None if last is None else now), None

    return step

  sample = gather_tokens(start_noise, ids)
  last = None if table.change is None else jnp.zeros_like(sample)  # The estimate of the step before.
  end = num_before + num_guided
  for passes, part in ((1, slice(num_before)), (num_passes, slice(num_before, end)), (1, slice(end, None))):
    steps = jax.tree.map(operator.itemgetter(part), (table, times, step_noise))
    if len(steps[0].time):
      if few:
        steps = steps[0], modulate(passes, steps[1]), steps[2]
      (sample, last), _ = jax.lax.scan(denoise(passes), (sample, last), steps)
  return scatter_tokens(x, jnp.where(valid, ids, num_tokens), sample), features
