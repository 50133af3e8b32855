"""One object from text to pixels: transformer, diffusion process, text encoder and autoencoder of a model folder.

A call is a request (`request.py`), which is resolved against the model into a job (`resolve.py`), which then runs
(`run.py`).
Invariant: a call keeps nothing; the same arguments give the same result.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from nova_jax import pretrained
from nova_jax.autoencoders import Autoencoder
from nova_jax.checkpoints.components import TEXT_ENCODER, TRANSFORMER, VAE
from nova_jax.checkpoints.hub import local_folder
from nova_jax.checkpoints.load import check_complete, make_transformer
from nova_jax.checkpoints.lora import Loras, weights_by_place
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.checkpoints.model_folder import load_autoencoder, load_text_encoder, open_folder
from nova_jax.config import MeshConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.models.nova import NOVA
from nova_jax.models.quantization import read_quantize
from nova_jax.pipeline.clips import Clips
from nova_jax.pipeline.declaration import document_settings
from nova_jax.pipeline.guide import load_guide, whole_place
from nova_jax.pipeline.model_parts import ModelParts
from nova_jax.pipeline.request import SETTINGS, Box, Request, TextEmbeds, Texts
from nova_jax.pipeline.resolve import check, resolve
from nova_jax.pipeline.run import Step, run
from nova_jax.sampling.frame_context import Model
from nova_jax.sampling.inputs import Noise
from nova_jax.text import TextEncoder
from nova_jax.utils.digests import digest_arrays, digest_values
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import to_dict
from nova_jax.utils.notes import tell

P = ParamSpec("P")
R = TypeVar("R")


def _takes_what(source: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
  """Give a function the signature of another one, whose arguments it passes on."""

  def decorate(function: Callable[..., R]) -> Callable[P, R]:
    signature = inspect.signature(source).replace(return_annotation=inspect.signature(function).return_annotation)
    function.__signature__ = signature  # ty: ignore[missing-attribute] (which `inspect` reads)
    return function

  return decorate


class Pipeline:
  """Generates images and videos: `pipe("a fox runs")` returns them, `pipe.stream("a fox runs")` yields frames.

  Attributes:
    card: content of `nova.json`.
    cfg: model configuration.
    model: transformer, split for many calls.
    scheduler: diffusion process.
    text_encoder: turns prompts into embeddings; None takes embeddings alone.
    autoencoder: maps pixels to latents; None makes latents alone.
    lora: weights of the LoRAs that were added to the transformer, by the whole path of each folder, or by its id and
      commit on the hub.
    quantize: numbers in 8 bits that matrices are stored in, by part.
    guide: model that guides in place of the unconditional passes, split for many calls; None for none.
    guide_place: where it was found.
  """

  def __init__(
      self, card: ModelCard, module: NOVA, text_encoder: TextEncoder | None = None,
      autoencoder: Autoencoder | None = None,
  ):
    self.card = card
    self.cfg = module.cfg
    self.cfg.check_fit(
        None if autoencoder is None else autoencoder.latent_dim, None if text_encoder is None else text_encoder.dim)
    self.model = Model.from_module(module)
    self.scheduler = make_scheduler(card.scheduler)
    self.text_encoder, self.autoencoder = text_encoder, autoencoder
    self.lora: dict[str, float] = {}
    self.quantize: dict[str, str] = {}
    self.guide: Model | None = None
    self.guide_place = ""

  @classmethod
  def load(
      cls, path: str | Path = pretrained.DEFAULT, weights: str = "ema", step: int | str | None = None, *,
      parts: Sequence[str] = (VAE, TEXT_ENCODER), dtype: str = "float32", space_tile: int | None = None,
      mesh: MeshConfig | None = None, lora: Loras | None = None,
      quantize: Mapping[str, str] | None = None, guide: str | None = None,
  ) -> "Pipeline":
    """Load a model folder: a published one, a converted one, or the workdir of a training run.

    Args:
      path: folder of the model, name of one that comes with the package (`digits`, the default), or id of one on the
        Hugging Face hub, ORG/NAME or ORG/NAME@REVISION; what is needed of it is downloaded, unless it is in the hub's
        cache.
      weights: weights of a training run: "ema" for the averaged ones, "params" for the last ones, "ema_0.999" for a
        further average with that decay.
      step: checkpoint of a training run, or "best"; None takes the newest.
      parts: parts to load beside the transformer. Without the text encoder, give embeddings; without the autoencoder,
        take latents.
      dtype: precision of activations, "float32" or "bfloat16"; those of a text encoder are always float32.
      space_tile: side, in latents, of the tiles that frames are decoded in, to save memory; approximate. None takes
        whole frames.
      mesh: mesh of this process's devices that samples are spread over; None takes the first device alone.
      lora: folder of a LoRA that is added to the transformer, or several folders and the weight of each. Without it the
        weights are those of the folder again.
      quantize: numbers in 8 bits, "int8" or "fp8", that matrices are stored in, by "blocks" (of the transformer) and
        "text_encoder". It saves memory, and is approximate.
      guide: weaker model that guides in place of the unconditional passes: "params" or other weights of the same
        training run, or a folder, name or id of a model; None guides by unconditional passes.

    Raises:
      UserError: the folder, a part or the checkpoint is missing, or doesn't fit what the folder says it is.
      FloatingPointError: weights that are not finite; the text names part and weights.
      RunFailed: the hub can't be reached.
    """
    for part in [parts] if isinstance(parts, str) else parts:
      if part not in (VAE, TEXT_ENCODER):
        raise UserError(f"parts: expected some of {VAE!r} and {TEXT_ENCODER!r}, got {part!r}")
    path = local_folder(path, (TRANSFORMER, *parts))
    folder = open_folder(path, weights, step)
    card = folder.card
    for note in folder.notes:
      tell(note)
    check_complete(folder, parts)
    quantization = read_quantize(quantize)
    module = make_transformer(folder, dtype=dtype, mesh=mesh, lora=lora, quantization=quantization.get("blocks"))
    text_encoder = None
    if TEXT_ENCODER in parts:
      text_encoder = load_text_encoder(
          card.text_encoder, card.transformer, path, () if lora else card.words,  # A LoRA may have taught it others.
          quantization.get("text_encoder"))
    options = {"dtype": dtype, "space_tile": space_tile}
    autoencoder = load_autoencoder(card.autoencoder, path, **options) if VAE in parts else None
    pipe = cls(card, module, text_encoder, autoencoder)
    pipe.lora, pipe.quantize = weights_by_place(lora), dict(quantize or {})
    if guide is not None:
      pipe.guide, pipe.guide_place = load_guide(guide, path, card, step, dtype, mesh), whole_place(guide)
    return pipe

  @document_settings(SETTINGS)
  def __call__(
      self, prompt: Texts | None = None, *,
      text_embeds: TextEmbeds | None = None, negative_prompt: Texts | None = None,
      negative_text_embeds: TextEmbeds | None = None, label: int | Sequence[int] | None = None,
      later_prompts: Mapping[int, Texts] | None = None, later_context: int | None = None, image: Any = None,
      video: Any = None, context_frames: int | None = None, given: Float[Array, "B G h w C"] | None = None,
      mask: Any = None, outpaint_box: Box | None = None, num_samples: int = 1, num_frames: int | None = None,
      window: int | None = None, sink_frames: int = 0, preset: str | None = None,
      num_inference_steps: int | None = None,
      later_inference_steps: int | None = None, token_order: str = "random", later_token_order: str | None = None,
      set_schedule: str = "cosine", later_set_schedule: str | None = None, num_diffusion_steps: int | None = None,
      last_set_diffusion_steps: int | None = None, solver: str | None = None, diffusion_grid: str | None = None,
      temperature: float | None = None, last_temperature: float | None = None, history_noise: float = 0.0,
      refresh_every: int | None = None,
      guidance_scale: float | None = None, min_guidance_scale: float | None = None, guidance_trunc: float = 0.0,
      guidance_start: float = 1000.0, guidance_every: int | None = None,
      guidance_renorm: float = 1.0, image_guidance_scale: float = 0.0, flow_shift: float | None = None,
      motion_flow: float | Sequence[float] | None = None, fps: float | Sequence[float] | None = None,
      seed: int | Sequence[int] = 0, order: Int[Array, "B N"] | None = None,
      noise: Noise | Float[Array, "F S B h w C"] | None = None, output: str = "pixels",
      on_set: Callable[[Step], None] | None = None,
  ) -> Clips:
    """Generate one clip for each prompt. A setting that is None takes the default of the model.

    Args:
{settings}
      on_set: Function that is called when a set of tokens is finished.

    Returns:
      Clips, uint8 pixels [B, T, height, width, c] or float32 latents [B, T, h, w, C]: an array that can save itself.

    Raises:
      UserError: an argument that the model can't do; the text names it.
      FloatingPointError: embeddings, latents or pixels that are not finite; the text names the part and where.
    """
    settings = {name: value for name, value in locals().items() if name in SETTINGS}
    job = resolve(Request(**settings), self.parts)
    frames = np.concatenate(list(run(job, self.model, self.autoencoder, on_set, self.guide)), axis=1)
    return Clips.from_array(frames, job.fps[0] if len(set(job.fps)) == 1 else None)

  @_takes_what(__call__)
  def stream(
      self, prompt: Texts | None = None, *, on_set: Callable[[Step], None] | None = None, **settings: Any
  ) -> Iterator[UInt8[np.ndarray, "B f height width c"] | Float[np.ndarray, "B 1 h w C"]]:
    """Generate like `__call__`, in pieces: frames are handed out as soon as they can be decoded.

    Arguments are the same, and are checked at once. Closing the iterator ends the generation.
    """
    job = resolve(Request(prompt=prompt, **settings), self.parts)
    return run(job, self.model, self.autoencoder, on_set, self.guide)

  def check(self, request: Request, rows: int = 1) -> None:
    """Refuse what `__call__` would, as far as can be told without reading pictures or encoding texts.

    Args:
      request: settings.
      rows: number of clips that will be generated together.

    Raises:
      UserError: a setting that the model can't do; the text names it.
    """
    check(request, self.parts, rows)

  @property
  def parts(self) -> ModelParts:
    """The model without its transformer, against which requests are resolved."""
    return ModelParts(
        self.card, self.cfg, self.scheduler, self.text_encoder, self.autoencoder, self.guide is not None)

  @functools.cached_property
  def _transformer_digest(self) -> str:
    return digest_arrays(self.model.state)

  @property
  def digests(self) -> dict[str, str]:
    """Digests of the parts at hand and of the model's settings, by part; seconds for gigabytes, the first time."""
    cfg = dataclasses.replace(self.card.transformer, dtype="float32", remat="none")
    what = [cfg.identity, to_dict(self.card.scheduler), self.card.num_frames, self._transformer_digest]
    digests = {TRANSFORMER: digest_values(what)}
    if self.guide is not None:
      digests["guide"] = digest_arrays(self.guide.state)
    for name, part in ((VAE, self.autoencoder), (TEXT_ENCODER, self.text_encoder)):
      if part is not None:
        digests[name] = part.digest
    return digests
