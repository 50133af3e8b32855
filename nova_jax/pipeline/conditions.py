"""From prompts, embeddings or labels to what the guidance's passes see.

Invariant: a prompt's condition is a function of the prompt alone, however many are asked for together.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Float32, Int32

from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.config import ModelConfig
from nova_jax.models.condition import Condition
from nova_jax.pipeline.request import Request, TextEmbeds, Texts
from nova_jax.sampling.inputs import Conditions
from nova_jax.text import TextEncoder
from nova_jax.utils.errors import UserError
from nova_jax.utils.finite import is_finite
from nova_jax.utils.notes import tell


def make_conditions(request: Request, card: ModelCard, text_encoder: TextEncoder | None) -> Conditions:
  """Return the conditions of a request, without motion.

  Raises:
    UserError: the model doesn't take what is given, or needs more.
  """
  check_conditions(request, card, text_encoder)
  cfg = card.transformer
  if cfg.num_classes:
    labels = np.atleast_1d(np.asarray(request.label, np.int32))
    condition = Condition(labels=labels)
    return Conditions(condition, condition.without(cfg.num_classes))
  condition = read_texts(cfg, text_encoder, request.prompt, request.text_embeds, "text_embeds")
  batch = condition.num_samples
  if request.negative_prompt is None and request.negative_text_embeds is None:
    return Conditions(condition, condition.without(cfg.num_classes))
  null = read_texts(
      cfg, text_encoder, request.negative_prompt, request.negative_text_embeds, "negative_text_embeds")
  if null.num_samples not in (1, batch):
    raise UserError(f"negative_prompt: expected 1 or {batch}, as many as prompts, got {null.num_samples}")
  return Conditions(condition, spread(null, batch))


def check_conditions(request: Request, card: ModelCard, text_encoder: TextEncoder | None) -> None:
  """Refuse what `make_conditions`, `add_motion` and `later_condition` would, as far as settings alone tell.

  Raises:
    UserError: the model doesn't take what is given, or needs more.
  """
  cfg = card.transformer
  if cfg.num_classes:
    texts = (request.prompt, request.text_embeds, request.negative_prompt, request.negative_text_embeds)
    if request.label is None or any(text is not None for text in texts):
      raise UserError("label: this model is made for classes; give a label, and no prompts or embeddings")
    labels = np.atleast_1d(np.asarray(request.label, object))
    if not labels.size or not all(
        isinstance(label, (int, np.integer)) and 0 <= label < cfg.num_classes for label in labels.flat):
      raise UserError(f"label: expected 0 to {cfg.num_classes - 1}, got {request.label}")
    if request.later_prompts:
      raise UserError("later_prompts: this model is class-conditional, it takes no prompts")
  elif request.label is not None:
    raise UserError("label: this model is made for texts, not for classes; give a prompt")
  elif (request.prompt is None) == (request.text_embeds is None):
    raise UserError("prompt: this model needs one; give either prompt or text_embeds")
  elif text_encoder is None and (request.prompt is not None or request.negative_prompt is not None):
    raise UserError("prompt: there is no text encoder; give text_embeds")
  if not cfg.has_motion and (request.motion_flow is not None or request.fps is not None):
    raise UserError("this model has no motion tokens: give neither motion_flow nor fps")


def add_motion(
    conditions: Conditions, request: Request, card: ModelCard, rates: Float[np.ndarray, "B"] | None = None
) -> Conditions:
  """Add motion score and frame rate, where the model takes them.

  Args:
    conditions: conditions of the clips.
    request: settings.
    card: description of the model.
    rates: frame rates of the files that clips start from, for a request without a rate; NaN where it isn't known.
  """
  if not card.transformer.has_motion:
    return conditions
  batch, sample = conditions.conditional.num_samples, card.sample
  for name in ("motion_flow", "fps"):
    value = getattr(request, name)
    if value is not None and np.shape(value) not in ((), (batch,)):
      raise UserError(f"{name}: expected one number, or one for each of {batch} clips, got {value}")
  own = sample.fps if rates is None else np.where(np.isnan(rates), sample.fps, rates)
  motion = {
      "motion_flow": np.full(
          batch, sample.motion_flow if request.motion_flow is None else request.motion_flow, np.float32),
      "fps": np.full(batch, sample.told_fps or (own if request.fps is None else request.fps), np.float32)}
  return Conditions(*(condition._replace(**motion) for condition in conditions))


def later_condition(
    condition: Condition, cfg: ModelConfig, text_encoder: TextEncoder | None, texts: Texts
) -> Condition:
  """Return a condition with other prompts, one for all samples or one for each prompt there was."""
  later = read_texts(cfg, text_encoder, texts, None, "later_prompts")
  count, batch = later.num_samples, condition.num_samples
  if batch % count:
    raise UserError(f"later_prompts: expected one prompt or as many as there were, got {count} for {batch} clips")
  later = repeat(later, batch // count)
  return condition._replace(text_embeds=later.text_embeds, text_lengths=later.text_lengths)


def read_texts(
    cfg: ModelConfig, text_encoder: TextEncoder | None, texts: Texts | None, embeds: TextEmbeds | None, name: str
) -> Condition:
  """Return embeddings [B, L, E], zeros behind the text, and lengths [B]."""
  if embeds is None:
    if text_encoder is None:
      raise UserError("prompt: there is no text encoder; give text_embeds")
    texts = [texts] if isinstance(texts, str) else list(texts or ())
    if not texts:
      raise UserError("prompt: expected at least one")
    for note in (note for text in dict.fromkeys(texts) for note in text_encoder.notes(text)):
      tell(note)
    return Condition(*encode(text_encoder, texts))
  if not np.iterable(embeds):
    raise UserError(f"{name}: expected an array for each prompt, got {type(embeds).__name__}")
  assert cfg.text_dim is not None  # The model takes texts.
  padded = np.zeros((len(embeds), cfg.text_len, cfg.text_dim), np.float32)
  for row, embed in zip(padded, map(np.asarray, embeds), strict=True):
    if embed.ndim != 2 or embed.shape[1] != cfg.text_dim or len(embed) > cfg.text_len:
      raise UserError(
          f"{name}: expected at most {cfg.text_len} rows of {cfg.text_dim} for each prompt, got {embed.shape}")
    if not np.isfinite(embed).all():
      raise UserError(f"{name}: expected finite numbers, got an infinity or NaN")
    row[: len(embed)] = embed
  return Condition(padded, np.array([len(embed) for embed in embeds], np.int32))


def encode(
    text_encoder: TextEncoder, texts: Sequence[str]
) -> tuple[Float32[np.ndarray, "B L E"], Int32[np.ndarray, "B"]]:
  """Embed texts.

  Raises:
    FloatingPointError: an embedding that is not finite.
  """
  embeds, lengths = text_encoder.encode(texts)
  for text, embed in zip(texts, embeds, strict=True):
    if not is_finite(embed):
      raise FloatingPointError(f"the text encoder made an embedding that is not finite, of the prompt {text[:60]!r}")
  return embeds, lengths


def spread(condition: Condition, batch: int) -> Condition:
  """Let one condition serve `batch` samples; as many pass unchanged."""
  return jax.tree.map(lambda value: np.broadcast_to(value, (batch, *value.shape[1:])), condition)


def repeat(condition: Condition, times: int) -> Condition:
  """Repeat each sample's condition, the repetitions next to each other."""
  return jax.tree.map(lambda value: np.repeat(np.asarray(value), times, axis=0), condition)
