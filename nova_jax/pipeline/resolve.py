"""From a request to a job: all defaults, shapes, conditions and given frames, and every refusal.

Invariant: a job that is returned runs; what `run` still raises is a number that is not finite.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from nova_jax.autoencoders.streaming import latent_for_frame
from nova_jax.pipeline.conditions import (
    add_motion,
    check_conditions,
    later_condition,
    make_conditions,
    repeat,
    spread,
)
from nova_jax.pipeline.given_frames import Givens, check_givens, read_givens
from nova_jax.pipeline.model_parts import ModelParts
from nova_jax.pipeline.request import DEFAULTS, Request, Texts, check_seeds
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.inputs import Conditions, Inputs, KnownTokens, Noise
from nova_jax.sampling.plan import Plan, make_plan
from nova_jax.utils.errors import UserError
from nova_jax.utils.notes import tell
from nova_jax.utils.terminal import command


class Job(NamedTuple):
  """A generation that is ready to run.

  Attributes:
    plan: what to generate, and how.
    inputs: conditions, given frames and tokens, and randomness, of all samples.
    givens: pictures that the clips start from.
    num_frames: frames to return of each clip; None for all that its latents show.
    as_pixels: whether latents are decoded.
    fps: frames per second at which each clip is to be shown.
  """

  plan: Plan
  inputs: Inputs
  givens: Givens
  num_frames: int | None
  as_pixels: bool
  fps: tuple[float, ...]


def check(request: Request, parts: ModelParts, rows: int = 1) -> None:
  """Refuse what `resolve` would, as far as can be told without reading pictures or encoding texts.

  Args:
    request: settings.
    parts: model.
    rows: number of clips that will be generated together.

  Raises:
    UserError: a setting that the model can't do; the text names it.
  """
  if request.output == "pixels" and parts.autoencoder is None:
    raise UserError(
        'output: there is no autoencoder to make pixels with; ask for latents, or load a folder that has one '
        f"({command('convert')} --base adds it)")
  if parts.has_guide:
    for name in ("negative_prompt", "negative_text_embeds", "image_guidance_scale", "guidance_every"):
      if getattr(request, name) != DEFAULTS[name]:
        raise UserError(f"{name}: with a guide there are no unconditional passes that it could be about; leave it out")
  check_conditions(request, parts.card, parts.text_encoder)
  check_seeds(request.seed)
  num_latents = plan_for(request, parts, request.num_frames).num_frames
  if request.num_frames is not None or not request.is_edit:  # Else as many as there are.
    _later_frames(request, parts, num_latents)
  if request.image is not None or request.video is not None:
    check_givens(request, parts, num_latents)
  parts.check_size(rows, parts.num_latent_frames(request.num_frames))


def resolve(request: Request, parts: ModelParts) -> Job:
  """Return the job that a request asks of a model.

  Raises:
    UserError: a setting that the model can't do, or a file that can't be read; the text names it.
    FloatingPointError: embeddings or latents that are not finite; the text names the part.
  """
  check(request, parts)
  conditions = make_conditions(request, parts.card, parts.text_encoder)
  givens = read_givens(request, parts)
  num_frames = request.num_frames
  if num_frames is None and givens.kept_mask is not None:
    num_frames = len(givens.kept_mask)
  plan = plan_for(request, parts, num_frames)
  if plan.num_sinks and plan.window < plan.num_frames:
    tell("sink_frames: models learn from frames that follow one another, and with a first frame that stays there is a "
         "gap in what they see; a model with a short window may lose its subject (the digits do): compare with 0")
  prefix = givens.prefix_latents
  if prefix is not None and request.given is None and prefix.shape[1] >= plan.num_frames:
    given = parts.num_shown_frames(prefix.shape[1])
    raise UserError(
        f"num_frames: given frames count, too, and are {given} here, so none "
        "is left to make; ask for more, or give fewer (context_frames); an edit needs mask or outpaint_box")
  parts.check_size(request.num_samples * conditions.conditional.num_samples, plan.num_frames)
  conditions, givens, batch = _fit(conditions, givens, request.num_samples)
  conditions = add_motion(conditions, request, parts.card, givens.fps)
  parts.check_size(batch, plan.num_frames)
  inputs = Inputs(
      conditions, sample_keys(request.seed, batch), givens.prefix_latents,
      _lengthen(givens.known_tokens, plan.num_frames), _changes(request, parts, conditions, plan.num_frames),
      request.order, _noise(request))
  _check_arrays(request, plan, inputs, batch)
  return Job(plan, inputs, givens, num_frames, request.output == "pixels", _frame_rates(request, parts, givens, batch))


def plan_for(request: Request, parts: ModelParts, num_frames: int | None) -> Plan:
  """Return the plan of a request for clips of `num_frames` frames; None stands for the model's own length."""
  request = parts.with_preset(request)
  assert request.refresh_every and request.guidance_every and request.diffusion_grid  # Every preset says them.
  num_latents, sample = parts.num_latent_frames(num_frames), parts.card.sample
  default = lambda value, own: own if value is None else value
  return make_plan(
      parts.cfg, parts.scheduler, num_frames=num_latents, window=parts.window(request, num_latents),
      num_sinks=request.sink_frames,
      num_sets=default(request.num_inference_steps, sample.num_inference_steps),
      later_sets=request.later_inference_steps, refresh_every=request.refresh_every,
      later_context=request.later_context,
      num_steps=default(request.num_diffusion_steps, sample.num_diffusion_steps),
      last_set_steps=request.last_set_diffusion_steps,
      guidance=Guidance(
          default(request.guidance_scale, sample.guidance_scale), request.min_guidance_scale, request.guidance_trunc,
          request.guidance_renorm, request.image_guidance_scale, request.guidance_start),
      flow_shift=request.flow_shift, solver=request.solver, grid=request.diffusion_grid,
      order=request.token_order, later_order=request.later_token_order, schedule=request.set_schedule,
      later_schedule=request.later_set_schedule, guidance_every=request.guidance_every,
      temperature=default(request.temperature, sample.temperature), last_temperature=request.last_temperature,
      history_noise=request.history_noise)


def sample_keys(seed: int | Sequence[int], batch: int) -> Key[Array, "B"]:
  """Return one key for each sample: from its own seed, or from the common seed and its place in the batch.

  Raises:
    UserError: a seed of more than 32 bits, or as many seeds as neither one nor all samples need.
  """
  check_seeds(seed)
  if isinstance(seed, (int, np.integer)):
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), jnp.arange(batch))
  if len(seed) != batch:
    raise UserError(f"seed: expected one, or one for each of {batch} samples, got {len(seed)}")
  return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), 0))(jnp.asarray(seed, jnp.uint32))


def _later_frames(request: Request, parts: ModelParts, num_latents: int) -> list[tuple[int, Texts]]:
  """Return the prompts that take over, in order, and at which latent frames."""
  found, num_frames = [], parts.num_shown_frames(num_latents)
  for frame, texts in sorted((request.later_prompts or {}).items()):
    if not 1 <= frame < num_frames:
      raise UserError(
          f"later_prompts: expected frames from 1 to {num_frames - 1}, within the clip of {num_frames}, got {frame}; "
          "num_frames makes the clip longer")
    found.append((frame if parts.autoencoder is None else latent_for_frame(parts.autoencoder, frame), texts))
  return found


def _changes(
    request: Request, parts: ModelParts, conditions: Conditions, num_latents: int
) -> Mapping[int, Conditions]:
  """Return the conditions that take over, by latent frame."""
  changes = {}
  for latent, texts in _later_frames(request, parts, num_latents):
    later = later_condition(conditions.conditional, parts.cfg, parts.text_encoder, texts)
    null = conditions.unconditional
    if request.negative_prompt is None and request.negative_text_embeds is None:
      null = null._replace(text_embeds=later.text_embeds)
    changes[latent] = Conditions(later, null)
  return changes


def _fit(conditions: Conditions, givens: Givens, num_samples: int) -> tuple[Conditions, Givens, int]:
  """Let one prompt serve all pictures and one picture all prompts, and repeat both for several samples."""
  known = givens.known_tokens
  latents = givens.prefix_latents if known is None else known.latents
  prompts, count = conditions.conditional.num_samples, 1 if latents is None else len(latents)
  if 1 not in (prompts, count) and prompts != count:
    raise UserError(f"expected one prompt, one picture or clip, or as many of both, got {prompts} and {count}")
  count = max(prompts, count)

  def fit(x):
    return None if x is None else np.repeat(np.broadcast_to(x, (count, *x.shape[1:])), num_samples, axis=0)

  conditions = Conditions(*(repeat(spread(condition, count), num_samples) for condition in conditions))
  known = None if known is None else known._replace(latents=fit(known.latents))
  givens = givens._replace(
      prefix_latents=fit(givens.prefix_latents), known_tokens=known, pixels=fit(givens.pixels), fps=fit(givens.fps))
  return conditions, givens, count * num_samples


def _lengthen(known: KnownTokens | None, num_frames: int) -> KnownTokens | None:
  """Add frames of which nothing is known."""
  if known is None:
    return None
  more = max(0, num_frames - len(known.mask))
  latents = np.pad(known.latents, ((0, 0), (0, more)) + ((0, 0),) * 3)
  return KnownTokens(latents, np.pad(known.mask, ((0, more), (0, 0))))


def _noise(request: Request) -> Noise | None:
  """Return the noise of a request as both of its parts."""
  noise = request.noise
  return noise if noise is None or isinstance(noise, Noise) else Noise(np.asarray(noise))


def _frame_rates(request: Request, parts: ModelParts, givens: Givens, batch: int) -> tuple[float, ...]:
  """Return at which rate each clip is shown: as asked for, else that of the file it starts from, else the model's."""
  own = parts.card.sample.fps
  rates = own if givens.fps is None or not parts.cfg.has_motion else np.where(np.isnan(givens.fps), own, givens.fps)
  return tuple(np.broadcast_to(rates if request.fps is None else request.fps, batch).tolist())


def _check_arrays(request: Request, plan: Plan, inputs: Inputs, batch: int) -> None:
  """Refuse arrays that are not finite, or whose shapes don't fit what is asked for.

  Raises:
    UserError: an array that a caller gave.
    FloatingPointError: latents that the autoencoder made.
  """
  cfg, prefix, known, num_given = plan.cfg, inputs.prefix_latents, inputs.known_tokens, 0
  latent, num_tokens = (*cfg.latent_size, cfg.latent_dim), cfg.num_image_tokens
  if prefix is not None:
    num_given = prefix.shape[1] if prefix.ndim == 5 else 0
    if prefix.shape != (batch, num_given, *latent) or num_given > plan.num_frames:
      raise UserError(
          f"given: expected {batch} clips of at most {plan.num_frames} latents of {latent}, got {prefix.shape}")
  for latents in (prefix, known and known.latents):
    if latents is not None and not np.isfinite(latents).all():
      if request.given is not None:
        raise UserError("given: expected finite latents, got an infinity or NaN")
      raise FloatingPointError("the autoencoder made latents of the given frames that are not finite")
  order, noise = inputs.order, inputs.noise
  if order is not None and (
      np.ndim(order) != 2 or not np.array_equal(np.sort(order, axis=-1), [np.arange(num_tokens)] * batch)):
    raise UserError(f"order: expected {batch} permutations of {num_tokens} tokens, got shape {np.shape(order)}")
  if noise is not None:
    if len(plan.sets) != len(plan.later_sets) or known is not None or request.last_set_diffusion_steps is not None:
      raise UserError(
          "noise: it is for equal sets in all frames, so give none of preset, later_inference_steps, "
          "last_set_diffusion_steps and mask")
    sets = (plan.num_frames - num_given, len(plan.sets))
    steps = (*sets, len(plan.table.time), batch, *latent) if plan.adds_noise else None
    got = noise.start.shape, None if noise.steps is None else noise.steps.shape
    if got != ((*sets, batch, *latent), steps):
      raise UserError(
          f"noise: expected start {(*sets, batch, *latent)} and steps {steps}, got {got[0]} and {got[1]}")
    if not all(np.isfinite(part).all() for part in noise if part is not None):
      raise UserError("noise: expected finite numbers, got an infinity or NaN")
