"""One object from text to pixels: transformer, diffusion process, text encoder and autoencoder of a model folder.

Invariant: a call keeps nothing; the same arguments give the same result.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from nova_jax.autoencoders import Autoencoder
from nova_jax.card import Card
from nova_jax.convert.folders import load_autoencoder, load_text_encoder, open_folder
from nova_jax.convert.parts import TEXT_ENCODER, TRANSFORMER, VAE
from nova_jax.diffusion import make_scheduler
from nova_jax.models.nova import NOVA, Condition
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.sampler import Model, Noise, Plan, generate, make_plan
from nova_jax.text import TextEncoder

TextEmbeds = Float[Array, "B L E"] | Sequence[Float[Array, "l E"]]


class Pipeline:
  """Generates images and videos; see `__call__`."""

  def __init__(
      self, card: Card, module: NOVA, text_encoder: TextEncoder | None = None, autoencoder: Autoencoder | None = None
  ):
    self.card = card
    self.cfg = module.cfg
    self.cfg.check_fit(
        None if autoencoder is None else autoencoder.latent_dim, None if text_encoder is None else text_encoder.dim)
    self.model = Model.of(module)
    self.scheduler = make_scheduler(card.scheduler)
    self.text_encoder, self.autoencoder = text_encoder, autoencoder

  @classmethod
  def load(
      cls, path: str | Path, weights: str = "ema", step: int | None = None, *,
      parts: Sequence[str] = (VAE, TEXT_ENCODER), dtype: str = "float32", space_tile: int | None = None,
  ) -> "Pipeline":
    """Load a model folder: a published one, a converted one, or the workdir of a training run.

    Args:
      path: the folder.
      weights: of a training run: "ema" for averaged weights, "params" for the last ones.
      step: of the checkpoint of a training run; None takes the newest.
      parts: which to load beside the transformer. Without the text encoder, give embeddings; without the autoencoder,
        take latents.
      dtype: of activations, "float32" or "bfloat16"; those of a text encoder are always float32.
      space_tile: side, in latents, of the tiles that frames are decoded in, to save memory; approximate. None takes
        whole frames.

    Raises:
      ValueError: the folder, a part or the checkpoint is missing, or doesn't fit what the folder says it is.
    """
    for part in [parts] if isinstance(parts, str) else parts:
      if part not in (VAE, TEXT_ENCODER):
        raise ValueError(f"parts: expected some of {VAE!r} and {TEXT_ENCODER!r}, got {part!r}")
    folder = open_folder(Path(path), weights, step)
    card = folder.card
    for note in folder.notes:
      logging.warning("%s", note)
    if TRANSFORMER not in folder.parts:
      raise ValueError(f"{path} has {', '.join(folder.parts)}, but no {TRANSFORMER}")
    part = folder.parts[TRANSFORMER]()
    module = nnx.eval_shape(lambda: NOVA(dataclasses.replace(card.model, dtype=dtype, remat="none"), rngs=nnx.Rngs(0)))
    nnx.update(module, part.state("float32"))
    text_encoder = load_text_encoder(card.text_encoder, card.model, path) if TEXT_ENCODER in parts else None
    options = {"dtype": dtype, "space_tile": space_tile}
    autoencoder = load_autoencoder(card.autoencoder, path, **options) if VAE in parts else None
    return cls(card, module, text_encoder, autoencoder)

  def __call__(
      self,
      prompt: str | Sequence[str] | None = None,
      *,
      text_embeds: TextEmbeds | None = None,
      negative_prompt: str | Sequence[str] | None = None,
      negative_text_embeds: TextEmbeds | None = None,
      label: int | Sequence[int] | None = None,
      image: UInt8[np.ndarray, "B height width 3"] | None = None,
      given: Float[Array, "B G h w C"] | None = None,
      num_frames: int | None = None,
      num_inference_steps: int | None = None,
      num_diffusion_steps: int | None = None,
      guidance_scale: float | None = None,
      min_guidance_scale: float | None = None,
      guidance_trunc: float = 0.0,
      guidance_renorm: float = 1.0,
      image_guidance_scale: float = 0.0,
      flow_shift: float | None = None,
      motion_flow: float | Sequence[float] | None = None,
      fps: float | Sequence[float] | None = None,
      seed: int | Sequence[int] = 0,
      order: Int[Array, "B N"] | None = None,
      noise: Noise | Float[Array, "F S B h w C"] | None = None,
      output: str = "pixels",
      on_set: Callable[[int, int, int], None] | None = None,
  ) -> UInt8[np.ndarray, "B T height width C"] | Float[np.ndarray, "B T h w C"]:
    """Generate one clip for each prompt.

    What is None takes the model's own default (`nova.json`).

    Args:
      prompt: one or several texts; or give `text_embeds`.
      text_embeds: a text encoder's output, [B, L, E] or a list of [l, E].
      negative_prompt: what the unconditional passes see instead of no text.
      negative_text_embeds: the same as embeddings.
      label: classes, for a class-conditional model.
      image: the first frame of each clip, of the model's size; or one for all, [height, width, 3].
      given: the same and more as latents: the first G frames, which are kept and condition all later ones.
      num_frames: frames of the clip, latent ones if there is no autoencoder; 1 makes images.
      num_inference_steps: S, sets of tokens a frame.
      num_diffusion_steps: K, diffusion steps a set.
      guidance_scale: classifier-free guidance; at most 1 for none.
      min_guidance_scale: the first set's scale, growing to `guidance_scale`; None for a constant one.
      guidance_trunc: time in [0, 1000] below which guidance ends.
      guidance_renorm: lower bound of the factor that shrinks guided predictions to the conditional one's norm.
      image_guidance_scale: guidance by earlier frames, apart from text.
      flow_shift: replaces the flow-matching sampler's shift.
      motion_flow: motion score, one for all or one for each clip.
      fps: frames per second, likewise.
      seed: one number, from which each sample derives its own randomness, or one for each sample.
      order: the order in which tokens are written, to reproduce a generation.
      noise: the noise of all generated frames and non-empty sets, to reproduce a generation.
      output: "pixels" or "latent".
      on_set: called with (frame, set, number of sets) when a set is finished.

    Returns:
      uint8 pixels or float32 latents, channels last.

    Raises:
      ValueError: an argument that the model can't do; the text names it.
    """
    if output not in ("pixels", "latent"):
      raise ValueError(f'output: expected "pixels" or "latent", got {output!r}')
    if output == "pixels" and self.autoencoder is None:
      raise ValueError(
          'output: there is no autoencoder to make pixels with; ask for "latent", or load a folder that has one '
          "(launch.convert --base adds it)")
    sample = self.card.sample
    plan = make_plan(
        self.cfg, self.scheduler, num_frames=self.num_latent_frames(num_frames),
        num_sets=sample.num_inference_steps if num_inference_steps is None else num_inference_steps,
        num_steps=sample.num_diffusion_steps if num_diffusion_steps is None else num_diffusion_steps,
        guidance=Guidance(
            sample.guidance_scale if guidance_scale is None else guidance_scale, min_guidance_scale, guidance_trunc,
            guidance_renorm, image_guidance_scale),
        flow_shift=flow_shift)
    condition, null = self.conditions(prompt, text_embeds, negative_prompt, negative_text_embeds, label)
    batch = len(next(iter(condition.values())))
    for name, value in (("motion_flow", motion_flow), ("fps", fps)):
      if value is not None and np.shape(value) not in ((), (batch,)):
        raise ValueError(f"{name}: expected one number, or one for each of {batch} clips, got {value}")
    if fps is not None and np.min(fps) <= 0:
      raise ValueError(f"fps: expected a positive number, got {fps}")
    if not self.cfg.has_motion and (motion_flow is not None or fps is not None):
      raise ValueError("this model has no motion tokens: give neither motion_flow nor fps")
    if self.cfg.has_motion:
      motion = {
          "motion_flow": np.full(batch, sample.motion_flow if motion_flow is None else motion_flow, np.float32),
          "fps": np.full(batch, sample.fps if fps is None else fps, np.float32)}
      condition, null = condition | motion, null | motion
    given = self._given(image, given, batch)
    if noise is not None and not isinstance(noise, Noise):
      noise = Noise(noise)
    self._check_given(plan, batch, given, order, noise)
    frames = generate(
        self.model, self.scheduler, plan, condition, null, keys=sample_keys(seed, batch), given=given, order=order,
        noise=noise, on_set=None if on_set is None else lambda t, i: on_set(t, i, len(plan.sets)))
    latents = np.stack([np.asarray(frame) for frame in frames], axis=1)
    if output == "latent":
      return latents
    # A latent may stand for several frames, and a clip end among them.
    return self.autoencoder.decode(latents)[:, :num_frames]

  def num_latent_frames(self, num_frames: int | None = None) -> int:
    """Return how many latent frames make a clip of `num_frames`; None stands for the model's own length.

    Raises:
      ValueError: a number of frames that the model can't make.
    """
    if num_frames is None:
      return self.card.num_frames
    # Absolute positions in time go up to `base_frames`, which may be more than was trained.
    longest = max(self.card.num_frames, self.cfg.base_frames)
    longest = longest if self.autoencoder is None else self.autoencoder.num_frames(longest)
    if not 1 <= num_frames <= longest:
      raise ValueError(f"num_frames: this model makes 1 to {longest} frames, got {num_frames}")
    return num_frames if self.autoencoder is None else self.autoencoder.num_latent_frames(num_frames)

  def conditions(
      self, prompt=None, text_embeds=None, negative_prompt=None, negative_text_embeds=None, label=None
  ) -> tuple[Condition, Condition]:
    """Return what the conditional and the unconditional passes see; arguments as in `__call__`."""
    if negative_prompt is not None and negative_text_embeds is not None:
      raise ValueError("give either negative_prompt or negative_text_embeds, not both")
    if self.cfg.num_classes:
      texts = (prompt, text_embeds, negative_prompt, negative_text_embeds)
      if label is None or any(text is not None for text in texts):
        raise ValueError("this model is class-conditional: give label, and no prompts or embeddings")
      labels = np.atleast_1d(np.asarray(label, np.int32))
      if labels.min() < 0 or labels.max() >= self.cfg.num_classes:
        raise ValueError(f"label: expected 0 to {self.cfg.num_classes - 1}, got {label}")
      return {"labels": labels}, {"labels": np.full_like(labels, self.cfg.num_classes)}
    if label is not None or (prompt is None) == (text_embeds is None):
      raise ValueError("this model is text-conditional: give either prompt or text_embeds, and no label")
    condition = self._text(prompt, text_embeds, "text_embeds")
    batch = len(condition["text_lengths"])
    if negative_prompt is None and negative_text_embeds is None:
      return condition, condition | {"text_lengths": np.zeros(batch, np.int32)}
    null = self._text(negative_prompt, negative_text_embeds, "negative_text_embeds")
    if len(null["text_lengths"]) not in (1, batch):
      raise ValueError(f"negative_prompt: expected 1 or {batch}, as many as prompts, got {len(null['text_lengths'])}")
    return condition, {key: np.broadcast_to(value, (batch, *value.shape[1:])) for key, value in null.items()}

  def _given(self, image, given, batch: int):
    """Return the latents that are given, of an image if one is."""
    if image is None:
      return given
    if given is not None or self.autoencoder is None:
      raise ValueError("image: give either image or given; an image needs an autoencoder")
    image = np.asarray(image)
    image = np.broadcast_to(image, (batch, *image.shape)) if image.ndim == 3 else image
    size = tuple(side * self.autoencoder.spatial_stride for side in self.cfg.latent_size)
    if image.dtype != np.uint8 or image.shape[:3] != (batch, *size):
      raise ValueError(
          f"image: expected uint8 pixels of {size[0]} x {size[1]}, one for all or {batch}, got {image.dtype} "
          f"{image.shape}")
    return np.asarray(self.autoencoder.encode(image[:, None]))

  def _check_given(self, plan: Plan, batch: int, given, order, noise: Noise | None) -> None:
    """Refuse arrays whose shapes don't fit what is asked for."""
    latent, num_tokens, num_given = (*self.cfg.latent_size, self.cfg.latent_dim), self.cfg.num_image_tokens, 0
    if given is not None:
      num_given = given.shape[1]
      if given.shape != (batch, num_given, *latent) or num_given > plan.num_frames:
        raise ValueError(
            f"given: expected {batch} clips of at most {plan.num_frames} latents of {latent}, got {given.shape}")
    if order is not None and not np.array_equal(np.sort(order, axis=-1), [np.arange(num_tokens)] * batch):
      raise ValueError(f"order: expected {batch} permutations of {num_tokens} tokens, got shape {np.shape(order)}")
    if noise is not None:
      sets = (plan.num_frames - num_given, len(plan.sets))
      steps = (*sets, len(plan.table.time), batch, *latent) if self.scheduler.adds_noise else None
      got = noise.start.shape, None if noise.steps is None else noise.steps.shape
      if got != ((*sets, batch, *latent), steps):
        raise ValueError(
            f"noise: expected start {(*sets, batch, *latent)} and steps {steps}, got {got[0]} and {got[1]}")

  def _text(self, prompt, embeds, name: str) -> Condition:
    """Return embeddings [B, L, E], zeros behind the text, and lengths [B]."""
    if embeds is None:
      if self.text_encoder is None:
        raise ValueError("prompt: there is no text encoder; give text_embeds")
      prompts = [prompt] if isinstance(prompt, str) else list(prompt)
      if not prompts:
        raise ValueError("prompt: expected at least one")
      embeds, lengths = self.text_encoder.encode(prompts)
      return {"text_embeds": embeds, "text_lengths": lengths}
    padded = np.zeros((len(embeds), self.cfg.text_len, self.cfg.text_dim), np.float32)
    for row, embed in zip(padded, embeds):
      if embed.ndim != 2 or embed.shape[1] != self.cfg.text_dim or len(embed) > self.cfg.text_len:
        raise ValueError(
            f"{name}: expected at most {self.cfg.text_len} rows of {self.cfg.text_dim} for each prompt, "
            f"got {embed.shape}")
      row[: len(embed)] = embed
    return {"text_embeds": padded, "text_lengths": np.array([len(embed) for embed in embeds], np.int32)}


def sample_keys(seed: int | Sequence[int], batch: int) -> jax.Array:
  """Return one key a sample: from its own seed, or from the common seed and its place in the batch.

  Raises:
    ValueError: a seed of more than 32 bits, or as many seeds as neither one nor all samples need.
  """
  for value in [seed] if isinstance(seed, (int, np.integer)) else seed:
    if not 0 <= value < 2**32:
      raise ValueError(f"seed: expected 0 to {2**32 - 1}, got {value}")
  if isinstance(seed, (int, np.integer)):
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), jnp.arange(batch))
  if len(seed) != batch:
    raise ValueError(f"seed: expected one, or one for each of {batch} samples, got {len(seed)}")
  return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), 0))(jnp.asarray(seed, jnp.uint32))
