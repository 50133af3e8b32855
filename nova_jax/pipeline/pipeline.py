"""One object from text to pixels: transformer, diffusion process, text encoder and autoencoder of a model folder.

Invariant: a call keeps nothing; the same arguments give the same result.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from nova_jax.autoencoders import Autoencoder
from nova_jax.autoencoders.streaming import decode_finished, frames_for_latent, latent_for_frame
from nova_jax.checkpoints.components import TEXT_ENCODER, TRANSFORMER, VAE
from nova_jax.checkpoints.load import make_transformer
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.checkpoints.model_folder import check_complete, load_autoencoder, load_text_encoder, open_folder
from nova_jax.config import MeshConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.flow_matching import FlowMatching
from nova_jax.media.readers import Clip
from nova_jax.models.nova import NOVA
from nova_jax.pipeline.array_checks import check_arrays, check_size, noise_of
from nova_jax.pipeline.conditions import (
  Pair,
  add_motion,
  check_conditions,
  later_condition,
  make_conditions,
  num_rows,
  repeat,
  spread,
)
from nova_jax.pipeline.given_frames import Start, check_start, read_clip, read_start
from nova_jax.pipeline.request import Request, Texts, check_seeds
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.plan import Plan, make_plan
from nova_jax.sampling.sampler import Known, Set, generate
from nova_jax.sampling.temporal import Model
from nova_jax.storage import as_path
from nova_jax.text import TextEncoder
from nova_jax.utils.digests import digest_arrays, digest_values
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import to_dict
from nova_jax.utils.notes import tell


class Step(NamedTuple):
  """A finished set, as it is told to a caller's `on_set`."""

  frame: int  # Latent frame.
  num_frames: int
  index: int  # Of the set.
  num_sets: int  # Of this frame.
  preview: Callable[[], UInt8[np.ndarray, "B height width c"]]  # The frame so far, decoded now; needs an autoencoder.


class Pipeline:
  """Generates images and videos; see `__call__` and `stream`."""

  def __init__(
      self, card: ModelCard, module: NOVA, text_encoder: TextEncoder | None = None,
      autoencoder: Autoencoder | None = None,
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
      mesh: MeshConfig | None = None,
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
      mesh: how to spread samples over this process's devices; None takes the first device alone.

    Raises:
      ValueError: the folder, a part or the checkpoint is missing, or doesn't fit what the folder says it is.
      FloatingPointError: weights that are not finite; the text names part and weights.
    """
    for part in [parts] if isinstance(parts, str) else parts:
      if part not in (VAE, TEXT_ENCODER):
        raise UserError(f"parts: expected some of {VAE!r} and {TEXT_ENCODER!r}, got {part!r}")
    folder = open_folder(as_path(path), weights, step)
    card = folder.card
    for note in folder.notes:
      tell(note)
    check_complete(folder, parts)
    module = make_transformer(folder, dtype=dtype, mesh=mesh)
    text_encoder = None
    if TEXT_ENCODER in parts:
      text_encoder = load_text_encoder(card.text_encoder, card.model, path, card.words)
    options = {"dtype": dtype, "space_tile": space_tile}
    autoencoder = load_autoencoder(card.autoencoder, path, **options) if VAE in parts else None
    return cls(card, module, text_encoder, autoencoder)

  def __call__(
      self, prompt: str | Sequence[str] | None = None, *, on_set: Callable[[Step], None] | None = None, **settings: Any
  ) -> UInt8[np.ndarray, "B T height width c"] | Float[np.ndarray, "B T h w C"]:
    """Generate one clip for each prompt.

    Args:
      prompt: one or several texts.
      on_set: called when a set of tokens is finished.
      **settings: see `Request`, which lists them all.

    Returns:
      uint8 pixels or float32 latents, channels last.

    Raises:
      ValueError: an argument that the model can't do; the text names it.
      FloatingPointError: embeddings, latents or pixels that are not finite; the text names the part and where.
    """
    return np.concatenate(list(self.stream(prompt, on_set=on_set, **settings)), axis=1)

  def stream(
      self, prompt: str | Sequence[str] | None = None, *, on_set: Callable[[Step], None] | None = None, **settings: Any
  ) -> Iterator[UInt8[np.ndarray, "B f height width c"] | Float[np.ndarray, "B 1 h w C"]]:
    """Like `__call__`, in pieces: frames are handed out as soon as they can be decoded.

    Arguments are checked at once. Closing the iterator ends the generation.
    """
    request = Request.from_settings({"prompt": prompt} | settings)
    self._check(request)
    pair = make_conditions(request, self.card, self.text_encoder)
    longest = self._window(request, self.card.num_frames)
    start = read_start(request, self.cfg, self.autoencoder, longest - 1)
    num_frames = request.num_frames
    if num_frames is None and start.fixed is not None:
      num_frames = len(start.fixed)
    plan = self._plan(request, num_frames)
    if start.given is not None and request.given is None and start.given.shape[1] >= plan.num_frames:
      raise UserError(
          f"num_frames: given frames count, too, and are {self.autoencoder.num_frames(start.given.shape[1])} here, so "
          "none is left to make; ask for more, or give fewer (context_frames); an edit needs mask or outpaint_box")
    self._check_size(request.num_samples * num_rows(pair[0]), plan.num_frames)
    pair, start, batch = _fit(pair, start, request.num_samples)
    pair = add_motion(pair, request, self.card, start.fps)
    self._check_size(batch, plan.num_frames)
    check_arrays(self.cfg, plan, batch, start, request)
    frames = generate(
        self.model, self.scheduler, plan, *pair, keys=sample_keys(request.seed, batch), given=start.given,
        order=request.order, noise=noise_of(request), known=_lengthen(start.known, plan.num_frames),
        changes=self._changes(request, pair, plan.num_frames),
        on_set=None if on_set is None else self._tell(on_set, plan))
    if request.output == "latent":
      return (np.asarray(frame)[:, None] for frame in frames)
    return self._decode(frames, start, plan.num_frames, num_frames)

  def check(self, prompt: str | Sequence[str] | None = None, *, rows: int = 1, **settings: Any) -> None:
    """Refuse settings that `stream` would, as far as can be told without reading pictures or encoding texts.

    Args:
      prompt: one or several texts.
      rows: clips that will be generated together.
      **settings: see `Request`.

    Raises:
      ValueError: a setting that the model can't do; the text names it.
    """
    request = Request.from_settings({"prompt": prompt} | settings)
    self._check(request)
    self._check_size(rows, self.num_latent_frames(request.num_frames))

  def read_video(self, **settings: Any) -> Clip:
    """Return what `stream` takes of the video of a request with these settings.

    Raises:
      ValueError: a setting that the model can't do, or a file that can't be read; the text names it.
    """
    request = Request.from_settings(settings)
    self._check(request)
    longest = self._window(request, self.card.num_frames) - 1
    return read_clip(request, request.video, self.cfg, self.autoencoder, longest)

  def _check(self, request: Request) -> None:
    if request.output == "pixels" and self.autoencoder is None:
      raise UserError(
          'output: there is no autoencoder to make pixels with; ask for latents, or load a folder that has one '
          "(launch.convert --base adds it)")
    check_conditions(request, self.card, self.text_encoder)
    check_seeds(request.seed)
    num_frames = self._plan(request, request.num_frames).num_frames
    if request.num_frames is not None or not request.is_edit:  # Else as many as there are.
      self._later_frames(request, num_frames)
    if request.image is not None or request.video is not None:
      check_start(request, self.cfg, self.autoencoder, self._window(request, self.card.num_frames) - 1, num_frames)

  def _check_size(self, batch: int, num_latents: int) -> None:
    stride = 1 if self.autoencoder is None else self.autoencoder.spatial_stride
    height, width = self.cfg.latent_size
    check_size(batch, self._shown(num_latents), (height * stride, width * stride))

  def num_latent_frames(self, num_frames: int | None = None) -> int:
    """Return how many latent frames make a clip of `num_frames`; None stands for the model's own length.

    Raises:
      ValueError: a number of frames that the model can't make.
    """
    if num_frames is None:
      return self.card.num_frames
    if num_frames < 1:
      raise UserError(f"num_frames: expected at least 1, got {num_frames}")
    if self._longest == 1 < num_frames:
      raise UserError(f"num_frames: this model makes single pictures, got {num_frames}")
    return num_frames if self.autoencoder is None else self.autoencoder.num_latent_frames(num_frames)

  @functools.cached_property
  def _transformer_digest(self) -> str:
    return digest_arrays(self.model.state)

  @property
  def digests(self) -> dict[str, str]:
    """Digests of the parts at hand and of what else makes a model what it is; seconds for gigabytes, the first time."""
    cfg = dataclasses.replace(self.card.model, dtype="float32", remat="none")
    what = [to_dict(cfg), to_dict(self.card.scheduler), self.card.num_frames, self._transformer_digest]
    digests = {TRANSFORMER: digest_values(what)}
    for name, part in ((VAE, self.autoencoder), (TEXT_ENCODER, self.text_encoder)):
      if part is not None:
        digests[name] = part.digest
    return digests

  @property
  def defaults(self) -> dict[str, Any]:
    """What is taken for settings that are left out, of those that each model has its own of."""
    sample, num_frames = self.card.sample, self.card.num_frames
    motion = {"motion_flow": sample.motion_flow, "fps": sample.fps} if self.cfg.has_motion else {}
    return motion | {
        "num_frames": num_frames if self.autoencoder is None else self.autoencoder.num_frames(num_frames),
        "num_inference_steps": sample.num_inference_steps, "num_diffusion_steps": sample.num_diffusion_steps,
        "guidance_scale": sample.guidance_scale}

  def implied(self, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what settings that are left out amount to beside those that are given."""
    request = Request.from_settings({name: value for name, value in settings.items() if name != "window"})
    implied = {
        "negative_prompt": "", "min_guidance_scale": request.guidance_scale,
        "later_inference_steps": request.num_inference_steps, "solver": self.scheduler.solvers[0],
        "later_token_order": request.token_order, "later_set_schedule": request.set_schedule,
        "last_temperature": request.temperature}
    if isinstance(self.scheduler, FlowMatching):
      implied["flow_shift"] = self.scheduler.shift
    if request.video is None:  # Else a window also says how much of it is seen.
      implied["window"] = self._window(request, self.num_latent_frames(request.num_frames))
    return implied

  @property
  def _longest(self) -> int:
    """Latent frames of the longest clip that fits the model's positions: without a window."""
    # Absolute positions in time go up to `base_frames`, which may be more than was trained.
    return max(self.card.num_frames, self.cfg.base_frames)

  def _window(self, request: Request, num_frames: int) -> int:
    """Return how many of `num_frames` latent frames the model sees at once."""
    if request.window is not None:
      if not 2 <= request.window <= max(2, self._longest):
        raise UserError(f"window: this model sees 2 to {self._longest} latent frames at once, got {request.window}")
      return request.window
    return num_frames if num_frames <= self._longest else self.card.num_frames

  def _plan(self, request: Request, num_frames: int | None) -> Plan:
    sample = self.card.sample
    num_frames = self.num_latent_frames(num_frames)
    default = lambda value, own: own if value is None else value
    return make_plan(
        self.cfg, self.scheduler, num_frames=num_frames, window=self._window(request, num_frames),
        num_sets=default(request.num_inference_steps, sample.num_inference_steps),
        later_sets=request.later_inference_steps, refresh_every=request.refresh_every,
        later_context=request.later_context,
        num_steps=default(request.num_diffusion_steps, sample.num_diffusion_steps),
        guidance=Guidance(
            default(request.guidance_scale, sample.guidance_scale), request.min_guidance_scale, request.guidance_trunc,
            request.guidance_renorm, request.image_guidance_scale, request.guidance_start),
        flow_shift=request.flow_shift, solver=request.solver, grid=request.diffusion_grid,
        order=request.token_order, later_order=request.later_token_order, schedule=request.set_schedule,
        later_schedule=request.later_set_schedule, guidance_every=request.guidance_every,
        temperature=request.temperature, last_temperature=request.last_temperature)

  def _changes(self, request: Request, pair: Pair, num_latents: int) -> dict[int, Pair]:
    """Return the conditions that take over, by latent frame."""
    changes, (condition, null) = {}, pair
    for latent, texts in self._later_frames(request, num_latents):
      changes[latent] = later_condition(condition, self.cfg, self.text_encoder, texts), null
      if request.negative_prompt is None and request.negative_text_embeds is None:
        changes[latent] = changes[latent][0], null | {"text_embeds": changes[latent][0]["text_embeds"]}
    return changes

  def _later_frames(self, request: Request, num_latents: int) -> list[tuple[int, Texts]]:
    """Return the prompts that take over, in order, and at which latent frames."""
    found, num_frames = [], self._shown(num_latents)
    for frame, texts in sorted((request.later_prompts or {}).items()):
      if not 1 <= frame < num_frames:
        raise UserError(
            f"later_prompts: expected frames from 1 to {num_frames - 1}, within the clip of {num_frames}, got {frame}; "
            "num_frames makes the clip longer")
      found.append((frame if self.autoencoder is None else latent_for_frame(self.autoencoder, frame), texts))
    return found

  def _shown(self, num_latents: int) -> int:
    """Return how many frames latents show."""
    return num_latents if self.autoencoder is None else frames_for_latent(self.autoencoder, num_latents - 1).stop

  def _decode(self, frames, start: Start, num_latents: int, num_frames: int | None):
    done = 0
    for piece in decode_finished(self.autoencoder, frames, num_latents):
      # A latent may stand for several frames, and a clip end among them.
      piece = start.keep(piece[:, : None if num_frames is None else num_frames - done], done)
      done += piece.shape[1]
      yield piece

  def _tell(self, on_set: Callable[[Step], None], plan: Plan) -> Callable[[Set], None]:

    def tell(done: Set) -> None:
      on_set(Step(done.frame, plan.num_frames, done.index, done.num_sets, lambda: preview(done)))

    def preview(done: Set) -> UInt8[np.ndarray, "B height width c"]:
      if self.autoencoder is None:
        raise UserError("preview: there is no autoencoder to make pixels with; load a folder that has one")
      return np.asarray(self.autoencoder.decode(np.asarray(done.latents())[:, None]))[:, 0]

    return tell


def _fit(pair: Pair, start: Start, num_samples: int) -> tuple[Pair, Start, int]:
  """Let one prompt serve all pictures and one picture all prompts, and repeat both for several samples."""
  things = next((x for x in (start.given, start.known and start.known.latents) if x is not None), None)
  prompts, count = num_rows(pair[0]), 1 if things is None else len(things)
  if 1 not in (prompts, count) and prompts != count:
    raise UserError(f"expected one prompt, one picture or clip, or as many of both, got {prompts} and {count}")
  count = max(prompts, count)
  pair = tuple(repeat(spread(condition, count), num_samples) for condition in pair)

  def fit(x):
    return None if x is None else np.repeat(np.broadcast_to(x, (count, *x.shape[1:])), num_samples, axis=0)

  known = None if start.known is None else start.known._replace(latents=fit(start.known.latents))
  return pair, Start(fit(start.given), known, fit(start.pixels), start.fixed, fit(start.fps)), count * num_samples


def _lengthen(known: Known | None, num_frames: int) -> Known | None:
  """Add frames of which nothing is known."""
  if known is None:
    return None
  more = max(0, num_frames - len(known.tokens))
  latents = np.pad(known.latents, ((0, 0), (0, more)) + ((0, 0),) * 3)
  return Known(latents, np.pad(known.tokens, ((0, more), (0, 0))))


def sample_keys(seed: int | Sequence[int], batch: int) -> jax.Array:
  """Return one key a sample: from its own seed, or from the common seed and its place in the batch.

  Raises:
    ValueError: a seed of more than 32 bits, or as many seeds as neither one nor all samples need.
  """
  check_seeds(seed)
  if isinstance(seed, (int, np.integer)):
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), jnp.arange(batch))
  if len(seed) != batch:
    raise UserError(f"seed: expected one, or one for each of {batch} samples, got {len(seed)}")
  return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), 0))(jnp.asarray(seed, jnp.uint32))
